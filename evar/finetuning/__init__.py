"""Fine-tuning: an encoder and a head trained end to end (docs/finetune.md)."""
