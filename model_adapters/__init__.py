"""Encoders: one file per family; `<name>.yaml` next to it configures a named model."""

if __name__ == "model_adapters":  # found from the checkout's root
    from evar.alias import alias

    alias("model_adapters", "evar.model_adapters")
