"""What the command lines do: read options, call the harness, print. One file a command."""
