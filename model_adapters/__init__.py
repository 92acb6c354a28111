"""Encoders, one file a family; `<name>.yaml` beside them configures a named model."""
