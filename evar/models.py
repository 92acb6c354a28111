"""From a model's name to a loaded adapter.

A name is a class file in `model_adapters/` (`logmel`), a configuration beside it
(`beats_iter3.yaml`, which names its class file), a user's own `path/to/file.py:ClassName`, or
`hf:ORG/NAME` (a transformers model) and `hear:MODULE[:weights]` (a HEAR-API module).
"""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import evar.registry as registry
from evar.errors import UserError, unknown

KIND = "model_adapters"
PREFIXES = ("hf", "hear")  # hf:NAME is the adapter model_adapters/hf.py with the option source=NAME


@dataclass(frozen=True)
class Weights:
    """Where a model's published weights are: the file's name, its address and its checksum."""

    file: str
    url: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    how: str = ""  # what to do where there is no open address


@dataclass(frozen=True)
class ModelConfig:
    """A named model: the adapter class, its keyword arguments and what documentation shows.

    The fields are the keys of `model_adapters/<name>.yaml`.
    """

    name: str
    adapter: str  # module in model_adapters/, or module:ClassName, or path/to/file.py:ClassName
    options: Mapping[str, object] = field(default_factory=dict)
    lr: float | None = None  # of the linear probe; None: the adapter's own
    lr_by_task: Mapping[str, float] = field(default_factory=dict)
    weights: Weights | None = None  # None: the model needs no file
    title: str = ""
    paper: str = ""
    licence: str = ""
    verified: str = ""
    notes: str = ""


def names() -> list[str]:
    """All registered models: every YAML, and every class file that no YAML configures."""
    configs = {p.stem: p for p in registry.folder(KIND).glob("*.yaml")}
    configured = {_read_yaml(p)["adapter"].partition(":")[0] for p in configs.values()}
    return sorted({*configs, *(set(registry.module_names(KIND)) - configured - set(PREFIXES))})


def config(model: str) -> ModelConfig:
    """The configuration of a registered model, of a user's class, or behind a prefix."""
    prefix, colon, source = model.partition(":")
    if colon and prefix in PREFIXES:
        return ModelConfig(name=model, adapter=prefix, options={"source": source})
    if colon and model.rpartition(":")[0].endswith(".py"):
        return ModelConfig(name=model.rpartition(":")[2], adapter=model)
    path = registry.folder(KIND) / f"{model}.yaml"
    if not path.is_file():
        registry.require_known("model", model, names())
        return ModelConfig(name=model, adapter=model)
    content = _read_yaml(path)
    known = {f.name for f in fields(ModelConfig)} - {"name"}
    for key in content:
        if key not in known:
            raise unknown(f"key in {path.name}:", key, sorted(known))
    if content.get("weights"):
        content["weights"] = Weights(**content["weights"])
    return ModelConfig(name=model, **content)


def _read_yaml(path: Path) -> dict:
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def load(model: str, *, weights=None, **overrides) -> tuple["Adapter", ModelConfig]:  # noqa: F821
    """Build the adapter of a model, in evaluation mode, on the CPU.

    `weights`: a path; "random" for an untrained model (always the same one); None for the
    published file, which must lie in the weights folder. `overrides` replace single options of
    the configuration. Raises UserError for an unknown name or option and for weights that are
    missing or another model's.
    """
    import torch

    spec = config(model)
    cls = adapter_class(spec.adapter)
    options = {**spec.options, **{k: v for k, v in overrides.items() if v is not None}}
    known = option_names(spec)
    for key in options:
        if key not in known:
            raise unknown(f"option of {spec.name}:", key, known or ["(it has no options)"])
    if "weights" not in inspect.signature(cls).parameters:
        if weights is not None:
            raise UserError(f"{spec.name} has no weights to load: leave --weights out")
    else:
        options["weights"] = _find_weights(spec, weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # whatever is initialised at random is the same in every run
        adapter = cls(**options)
    for attribute in ("sample_rate", "embed_dim"):
        if not isinstance(getattr(adapter, attribute, None), int):
            raise UserError(
                f"{model}: the adapter must set `{attribute}` to a whole number "
                "(docs/add-a-model.md shows a complete one)"
            )
    return adapter.eval().requires_grad_(False), replace(spec, lr=spec.lr or adapter.lr)


def option_names(spec: ModelConfig) -> list[str]:
    """The options of a model's adapter that a command line may set."""
    parameters = inspect.signature(adapter_class(spec.adapter)).parameters
    return [name for name in parameters if name not in ("weights", "self")]


def _find_weights(spec: ModelConfig, given) -> Path | None:
    from evar.weights import weights_folder

    if given == "random":
        return None
    if given is not None:
        if not Path(given).exists():
            raise UserError(f"{given}: no such weights file or folder (--weights)")
        return Path(given)
    if spec.weights is None:
        return None
    path = weights_folder() / spec.weights.file
    if path.exists():
        return path
    source = f"Download {spec.weights.url}" if spec.weights.url else spec.weights.how
    raise UserError(
        f"{spec.name}: weights not found at {path}. {source}, put the file there, or give its "
        "path with --weights=PATH (--weights=random evaluates the untrained model)."
    )


def adapter_class(reference: str) -> type:
    """The class of `module`, `module:Class` (both in model_adapters/) or `path/file.py:Class`."""
    from evar.adapter import Adapter

    place, _, name = reference.rpartition(":") if ":" in reference else (reference, "", "")
    module = _load_file(Path(place)) if place.endswith(".py") else registry.load(KIND, place)
    classes = {
        key: value
        for key, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Adapter) and value is not Adapter
    }
    own = {k: v for k, v in classes.items() if v.__module__ == module.__name__}
    if not name and len(own) == 1:
        return next(iter(own.values()))
    if name in classes:
        return classes[name]
    if name and hasattr(module, name):
        raise UserError(f"{reference}: {name} must be a subclass of evar.Adapter")
    raise unknown(f"adapter class in {place}:", name, sorted(own) or ["(none in this file)"])


def _load_file(path: Path):
    if not path.is_file():
        raise UserError(f"{path}: no such file (MODEL is a name or path/to/file.py:ClassName)")
    name = f"evar_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that inspect finds the source
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error
    return module


def identity(adapter, spec: ModelConfig, overrides: Mapping | None = None) -> dict:
    """What makes this model's embeddings what they are: source, options, weights, libraries."""
    from evar.weights import state_hash

    options = {**spec.options, **{k: v for k, v in (overrides or {}).items() if v is not None}}
    return {
        "adapter": f"{type(adapter).__module__.rpartition('.')[2]}:{type(adapter).__name__}",
        "source": source_hash(type(adapter)),
        "options": options,
        "weights": state_hash(adapter),
        "libraries": _library_versions(),
    }


def source_hash(cls: type) -> str:
    """SHA-256 of the source of a class, of its bases and of the adapter modules they import."""
    modules, todo = {}, [sys.modules[c.__module__] for c in cls.__mro__]
    while todo:
        module = todo.pop()
        if module.__name__ in modules or not _is_adapter_code(module.__name__):
            continue
        modules[module.__name__] = Path(module.__file__).read_bytes()
        for value in vars(module).values():
            owner = value if inspect.ismodule(value) else inspect.getmodule(value)
            if owner is not None:
                todo.append(owner)
    # The names of users' files hold their folder: another folder is not another model.
    contents = sorted(modules.values())
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]


def _is_adapter_code(name: str) -> bool:
    return name.startswith((f"evar.{KIND}.", "evar_user_"))


def _library_versions() -> dict[str, str]:
    from importlib.metadata import version

    relevant = (
        "torch",
        "torchaudio",
        "transformers",
        "timm",
        "openbeats",
        "dasheng",
        "opensmile",
    )
    return {name: version(name) for name in relevant if name in sys.modules}
