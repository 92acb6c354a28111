"""Converts records of schema 1, which named neither units nor what differs from the defaults.

Their intervals over test clips are percentiles of a bootstrap, too narrow for few groups.
"""

from collections.abc import Mapping

from evar.results import checks

# The defaults of the protocols that wrote schema 1, as they were then.
_DEFAULTS: dict[str, dict[str, object]] = {
    "linear": {
        "hidden": [],
        "epochs": 200,
        "patience": 20,
        "batch_size": 200,
        "crop_seed": 42,
        "precision": "fp32",
    },
    "zeroshot": {"rule": "task", "precision": "fp32"},
    "retrieval": {"precision": "fp32"},
}
_SEEDS = {"linear": [42, 43, 44], "finetune": [43, 44, 45]}


def converted(record: Mapping) -> dict:
    """Returns a record of schema 1 as one of schema 2. Raises ValueError for missing fields."""
    known = checks.Fields.of(record)
    score = known.inside("score")
    interval = {
        "test95": score("bootstrap95", checks.anything),
        "test_unit": score("bootstrap_unit", checks.anything),
    }
    return {
        **known.without({"skipped"}),  # the clips' own field holds it, with reasons
        "schema": 2,
        "score": score.without({"bootstrap95", "bootstrap_unit"}) | interval,
        "variant": _variant(known),
    }


def _variant(record: checks.Fields) -> dict[str, object]:
    settings, config = record.inside("settings").values, record.inside("config")
    clips = record.inside("clips").values
    protocol, seeds = record("protocol", checks.text), record("seeds", checks.anything)
    changed = {}
    if protocol == "linear" and settings.get("lr") != config("lr", checks.anything, None):
        changed["lr"] = settings.get("lr")
    usual = _DEFAULTS.get(protocol, {})
    changed |= {k: settings[k] for k, v in usual.items() if settings.get(k, v) != v}
    changed |= weights_variant(config("checkpoint", checks.text, ""))
    changed |= record("overrides", checks.mapping(checks.anything), {})
    automatic = "valid" if clips.get("valid") else "holdout"
    if record("select", checks.text, automatic) != automatic:
        changed["select"] = record.values["select"]
    if seeds != _SEEDS.get(protocol, []):
        changed["seeds"] = seeds
    given = record.inside("model")("options", checks.mapping(checks.anything))
    of_config = config("options", checks.mapping(checks.anything))
    return changed | {k: v for k, v in given.items() if of_config.get(k) != v}


def weights_variant(checkpoint: str) -> dict[str, str]:
    """Returns which weights a run took, where they are not the published ones."""
    name = checkpoint.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    return {} if checkpoint in ("", "published") else {"weights": name}
