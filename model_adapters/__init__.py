"""Encoders, one file a family; `<name>.yaml` beside them configures a named model."""

if __name__ == "model_adapters":  # found from the checkout's root
    from evar.alias import alias

    alias("model_adapters", "evar.model_adapters")
