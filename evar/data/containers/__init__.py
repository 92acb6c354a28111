"""What sound files say of themselves, and whether that can be true: one module per container."""
