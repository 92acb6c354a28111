"""Pre-training of M2D-CLAP, M2D and MSM-MAE (docs/pretrain.md)."""
