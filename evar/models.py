"""From a model's name to a loaded adapter.

A name is a class file in `model_adapters/` (`logmel`), a configuration beside it
(`beats_iter3.yaml`, which names its class file), a user's own `path/to/file.py:ClassName`, or
`hf:ORG/NAME` (a transformers model) and `hear:MODULE[:weights]` (a HEAR-API module).
"""

import contextlib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import evar.registry as registry
from evar import files
from evar.errors import UserError, blaming, unknown
from evar.sources import ModuleSource, library_versions, module_sources

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

    The fields are the keys of `model_adapters/<name>.yaml`, but for `name` and `checkpoint`: which
    weights a run took, "published", "random", the path of --weights, "none given", or "" for a
    model without.
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
    checkpoint: str = ""


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
    if model.endswith(".py"):
        raise UserError(f"{model}: name the class in it as well, as in {model}:ClassName")
    path = registry.folder(KIND) / f"{model}.yaml"
    if not path.is_file():
        registry.require_known("model", model, names())
        return ModelConfig(name=model, adapter=model)
    content = _read_yaml(path)
    known = {f.name for f in fields(ModelConfig)} - {"name", "checkpoint"}
    for key in content:
        if key not in known:
            raise unknown(f"key in {path.name}:", key, sorted(known))
    if content.get("weights"):
        content["weights"] = Weights(**content["weights"])
    return ModelConfig(name=model, **content)


def _read_yaml(path: Path) -> dict:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict) or "adapter" not in content:
        raise UserError(f"{path}: a model's configuration names its `adapter`")
    return content


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
        _require_kind(key, options[key], inspect.signature(cls).parameters[key].default)
    checkpoint = ""
    if not takes_weights(cls):
        if weights is not None:
            raise UserError(f"{spec.name} has no weights to load: leave --weights out")
        if spec.weights is not None:
            raise UserError(
                f"{spec.name}.yaml names weights, but {cls.__name__} takes none: give its __init__ "
                "an argument `weights` (docs/add-a-model.md), or leave them out of the YAML"
            )
    else:
        options["weights"] = _find_weights(spec, weights)
        given = "published" if spec.weights is not None else "none given"
        checkpoint = given if weights is None else str(weights)
    with torch.random.fork_rng(devices=[]), blaming(f"{spec.name} cannot be built"):
        torch.manual_seed(0)  # whatever is initialised at random is the same in every run
        adapter = cls(**options)
    for attribute in ("sample_rate", "embed_dim"):
        value = getattr(adapter, attribute, None)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(
                f"{model}: the adapter must set `{attribute}` to a whole number of 1 or more "
                "(docs/add-a-model.md shows a complete one)"
            )
    spec = replace(spec, lr=spec.lr or adapter.lr, checkpoint=checkpoint)
    return adapter.eval().requires_grad_(False), spec


def _require_kind(option: str, value, default) -> None:
    """Refuse text for a number and the like: what an option without a default takes is unknown."""
    kinds = {bool: "True or False", int: "a whole number", float: "a number"}
    allowed = (int, float) if type(default) is float else (type(default),)
    if type(default) in kinds and type(value) not in allowed:
        raise UserError(f"--{option}={value}: it is {kinds[type(default)]}")


def takes_weights(cls: type) -> bool:
    """Whether an adapter class does something with `weights`: its own __init__ has the argument."""
    from evar.adapter import Adapter

    inherited = cls.__init__ is Adapter.__init__
    return not inherited and "weights" in inspect.signature(cls).parameters


def option_names(spec: ModelConfig) -> list[str]:
    """The options of a model's adapter that a command line may set."""
    parameters = inspect.signature(adapter_class(spec.adapter)).parameters
    return [name for name in parameters if name not in ("weights", "self")]


def reads_text(model: str) -> bool:
    """Whether a model is an audio-language model, told by its class alone."""
    from evar.adapter import has_both_towers

    return has_both_towers(adapter_class(config(model).adapter))


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
    from evar.data import download

    path = weights_folder() / spec.weights.file
    if path.exists():
        if path.is_file():
            download.verify(path, spec.weights)
        return path
    if spec.weights.url:
        from tqdm import tqdm

        def bar(total=None, initial=0):
            settings = {"unit": "B", "unit_scale": True, "leave": False}
            return tqdm(desc=f"download {path.name}", total=total, initial=initial, **settings)

        return download.fetch(spec.weights, weights_folder(), progress=bar)
    raise UserError(
        f"{spec.name}: weights not found at {path}. {spec.weights.how}, put it there, or give its "
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
    path = path.resolve()
    with files.reading(path):
        content = path.read_bytes()
    # An edited file is another module; the same one runs once, however often it is asked for.
    name = f"evar_user_{hashlib.sha256(str(path).encode() + content).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    module.EVAR_SOURCE = content  # what ran, should the file be edited meanwhile
    sys.modules[name] = module  # so that inspect finds the source
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # it may import files that lie beside it
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
    sources = sources_of(type(adapter))
    return {
        "adapter": type(adapter).__name__,
        "source": source_hash(sources),
        "options": options,
        "files": _file_options(options, adapter.text_options),
        "weights": state_hash(adapter),
        "file": file_hash(getattr(adapter, "weights", None)),
        "libraries": library_versions(sources),
    }


def _file_options(options: Mapping, known: Iterable[str]) -> dict[str, str]:
    """Hashes of the files that options name, but of those whose content is `known` elsewhere."""
    found = {}
    for name, value in options.items():
        with contextlib.suppress(OSError, ValueError):  # no path at all
            if isinstance(value, str) and name not in known and Path(value).is_file():
                found[name] = file_hash(value)
    return found


def source_hash(sources: Iterable[ModuleSource]) -> str:
    """SHA-256 of sources, whatever their names and order."""
    # Sorted by content: the names of users' modules hold their folder, and another folder is not
    # another model.
    return hashlib.sha256(b"\0".join(sorted(s.code for s in sources))).hexdigest()[:16]


def sources_of(cls: type) -> list[ModuleSource]:
    """The sources of a class, of its bases, and of the adapter modules they import."""
    return module_sources(c.__module__ for c in cls.__mro__)


def file_hash(path) -> str | None:
    """SHA-256 of a weights file, or of the files in a weights folder; None without weights."""
    if path is None:
        return None
    path = Path(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        digest.update(file.name.encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]
