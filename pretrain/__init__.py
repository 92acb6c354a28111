"""Pre-training of M2D-CLAP, M2D and MSM-MAE (docs/pretrain.md)."""

if __name__ == "pretrain":  # found from the checkout's root
    from evar.alias import alias

    alias("pretrain", "evar.pretrain")
