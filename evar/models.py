"""From a model's name to a loaded model: adapter, configuration and identity.

A name is a class file in `model_adapters/` (`logmel`), a configuration next to it
(`beats_iter3.yaml`, which names its class file), an installed package's entry point, a user's own
`path/to/file.py:ClassName`, `hf:ORG/NAME` (a transformers model) or `hear:MODULE[:weights]` (a
HEAR-API module). From Python, an adapter class or instance serves as well.
"""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar import files, registry
from evar.callable_module import callable_module
from evar.errors import UserError, blaming, unknown
from evar.identity import identity_of
from evar.opened_files import Recording, remembered
from evar.trained_on import TaskOverlap, TrainingData, read_entries
from evar.trained_on import seen_in_training as seen_in_training
from evar.yaml_files import read_yaml

if TYPE_CHECKING:
    from evar.adapter import Adapter

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
    citation: str = ""  # BibTeX of the paper
    licence: str = ""
    verified: str = ""
    notes: str = ""
    # None: not known, which is not "nothing" (an empty list, of a fixed formula).
    trained_on: tuple[TrainingData | TaskOverlap, ...] | None = None
    checkpoint: str = ""

    @property
    def is_verified(self) -> bool:
        """Returns whether all that decides its embeddings is known to be in its identity.

        This holds for models whose configuration says how they were verified, and for those of
        transformers. Of others the identity has what they compute of fixed sounds as well, and
        their cached embeddings are checked on some clips.
        """
        return bool(self.verified) or self.adapter == "hf"


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model.

    adapter: in evaluation mode, on the CPU. config: what is known of it. options: the adapter's
    options that were given. identity: what its embeddings depend on (`identity_of`).
    """

    adapter: "Adapter"
    config: ModelConfig
    options: Mapping[str, object]
    identity: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def parameters(self) -> int:
        """Returns the number of the adapter's parameters."""
        return sum(p.numel() for p in self.adapter.parameters())


def names() -> list[str]:
    """Returns all registered models: YAML files, class files without one, installed plug-ins."""
    configs = {p.stem: p for p in registry.folder(KIND).glob("*.yaml")}
    configured = {_read_yaml(p)["adapter"].partition(":")[0] for p in configs.values()}
    return sorted({*configs, *(set(registry.names(KIND)) - configured - set(PREFIXES))})


def config(model: "str | type[Adapter] | Adapter | Model") -> ModelConfig:
    """Returns the configuration of a registered model, a user's class, or one behind a prefix."""
    if isinstance(model, Model):
        return model.config
    if not isinstance(model, str):
        from evar.adapter import Adapter

        cls = model if inspect.isclass(model) else type(model)
        if not issubclass(cls, Adapter):
            raise UserError(
                f"{model!r} is no model: give a name, or a subclass of evar.Adapter or an instance"
            )
        return ModelConfig(name=cls.__name__, adapter=f"{cls.__module__}:{cls.__qualname__}")
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
    content["trained_on"] = read_entries(content.get("trained_on"), path.name)
    return ModelConfig(name=model, **content)


def _read_yaml(path: Path) -> dict:
    content = read_yaml(path, what="a model's configuration")
    if not isinstance(content, dict) or "adapter" not in content:
        raise UserError(f"{path}: a model's configuration names its `adapter`")
    return content


def load(model: "str | type[Adapter] | Adapter", *, weights=None, **options) -> Model:
    """Builds a model on the CPU, in evaluation mode.

    `weights`: a path; "random" for an untrained model (always the same one); None for the
    published file, which must lie in the weights folder. `options` override single options of the
    configuration; None means "not given". An adapter instance is taken as it is. Raises UserError
    for an unknown name or option and for weights that are missing or another model's.
    """
    from evar.adapter import Adapter
    from evar.weights import find

    options = {k: v for k, v in options.items() if v is not None}
    spec = config(model)
    reading = Recording()
    path: Path | None = None
    known = {**spec.options, **options}
    if isinstance(model, Adapter):
        if options or weights is not None:
            given = ", ".join([*options, *(["weights"] if weights is not None else [])])
            raise UserError(f"{spec.name} is built already: {given} cannot be given any more")
        adapter = model
    else:
        cls = class_of(model, spec)
        _require_options(spec, cls, known)
        spec = replace(spec, checkpoint=_checkpoint(spec, cls, weights))
        built = dict(known)
        if takes_weights(cls):
            path = built["weights"] = find(spec.name, spec.weights, weights)
        with reading.on():
            adapter = _build(spec, cls, built)
    _require_attributes(spec, adapter)
    spec = replace(spec, lr=spec.lr or adapter.lr)
    adapter = adapter.eval().requires_grad_(False)
    return Model(adapter, spec, options, _identity(model, spec, adapter, known, path, reading))


def _identity(
    model: "str | type[Adapter] | Adapter",
    spec: ModelConfig,
    adapter: "Adapter",
    options: Mapping[str, object],
    weights: Path | None,
    reading: Recording,
) -> dict:
    """Returns the identity of a model that has just been built, or of a user's instance."""
    from evar import fingerprint

    embeds = None
    if not spec.is_verified:
        with reading.on():
            embeds = fingerprint.of(adapter)
    owner = adapter if model is adapter else type(adapter)
    opened = remembered(owner, repr((sorted(options.items()), str(weights))), reading.files)
    return identity_of(
        adapter,
        options,
        weights=weights,
        opened=opened,
        embeds=embeds,
        is_named=isinstance(model, str),
    )


def require_buildable(
    model: "str | type[Adapter] | Adapter | Model", weights, options: Mapping[str, object]
) -> None:
    """Raises UserError for a name, options or weights with which `load` would fail at once."""
    from evar.adapter import Adapter

    if isinstance(model, (Adapter, Model)):
        return
    spec = config(model)
    cls = class_of(model, spec)
    _require_options(spec, cls, {**spec.options, **options})
    _checkpoint(spec, cls, weights)


def class_of(model: "str | type[Adapter]", spec: ModelConfig) -> "type[Adapter]":
    """Returns the adapter class of a name or of a class."""
    return model if inspect.isclass(model) else adapter_class(spec.adapter)


def _require_options(spec: ModelConfig, cls: type, options: Mapping[str, object]) -> None:
    parameters = inspect.signature(cls).parameters
    known = [name for name in parameters if name not in ("weights", "self")]
    for key, value in options.items():
        if key not in known:
            raise unknown(f"option of {spec.name}:", key, known or ["(it has no options)"])
        _require_kind(key, value, parameters[key].default)


def _checkpoint(spec: ModelConfig, cls: type, weights) -> str:
    """Returns where the weights are from, as `ModelConfig.checkpoint` describes it."""
    if takes_weights(cls):
        given = "published" if spec.weights is not None else "none given"
        return given if weights is None else str(weights)
    if weights is not None:
        raise UserError(f"{spec.name} has no weights to load: leave --weights out")
    if spec.weights is not None:
        raise UserError(
            f"{spec.name}.yaml names weights, but {cls.__name__} takes none: give its __init__ "
            "an argument `weights` (docs/add-a-model.md), or leave them out of the YAML"
        )
    return ""


def _build(spec: ModelConfig, cls: type, options: Mapping[str, object]) -> "Adapter":
    import torch

    with torch.random.fork_rng(devices=[]), blaming(f"{spec.name} cannot be built"):
        torch.manual_seed(0)  # random initialisation is the same in every run
        return cls(**options)


def _require_attributes(spec: ModelConfig, adapter: "Adapter") -> None:
    for attribute in ("sample_rate", "embed_dim"):
        value = getattr(adapter, attribute, None)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            where = spec.adapter if ".py:" in spec.adapter else spec.name
            raise UserError(
                f"{where}: the adapter must set `{attribute}` to a whole number of 1 or more "
                "(docs/add-a-model.md shows a complete one)"
            )


def _require_kind(option: str, value, default) -> None:
    """Refuses text for a number and the like: what an option without a default takes is unknown."""
    kinds = {bool: "True or False", int: "a whole number", float: "a number"}
    allowed = (int, float) if type(default) is float else (type(default),)
    if type(default) in kinds and type(value) not in allowed:
        raise UserError(f"--{option}={value}: must be {kinds[type(default)]}")


def takes_weights(cls: type) -> bool:
    """Whether an adapter class does something with `weights`: its own __init__ has the argument."""
    from evar.adapter import Adapter

    inherited = inspect.getattr_static(cls, "__init__") is Adapter.__init__
    return not inherited and "weights" in inspect.signature(cls).parameters


def option_names(model: "str | type[Adapter] | Adapter | Model") -> list[str]:
    """Returns the options of a model's adapter; none of an instance, which is built already."""
    from evar.adapter import Adapter

    if isinstance(model, (Adapter, Model)):
        return []
    parameters = inspect.signature(class_of(model, config(model))).parameters
    return [name for name in parameters if name not in ("weights", "self")]


def options_of(model: "str | type[Adapter]") -> dict[str, object]:
    """Returns a model's options with their defaults: the configuration's, else the class'.

    A required option is "(required)".
    """
    spec = config(model)
    parameters = inspect.signature(class_of(model, spec)).parameters
    defaults = {
        name: "(required)" if p.default is p.empty else p.default
        for name, p in parameters.items()
        if name not in ("weights", "self")
    }
    return {**defaults, **spec.options}


def reads_text(model: "str | type[Adapter] | Adapter | Model") -> bool:
    """Returns whether a model is an audio-language model, as its class alone shows."""
    from evar.adapter import Adapter, has_both_towers

    if isinstance(model, Model):
        return model.adapter.reads_text
    if isinstance(model, Adapter):
        return model.reads_text
    return has_both_towers(class_of(model, config(model)))


def require_text(model: "str | type[Adapter] | Adapter | Model") -> None:
    """Raises UserError for an audio-only model, and says which ones read captions."""
    if not reads_text(model):
        able = [name for name in names() if reads_text(name)]
        raise UserError(
            f"{config(model).name} is an audio-only model: it reads no captions (which takes "
            f"embed_joint() and embed_text()). Audio-language models are {', '.join(able)}"
        )


def adapter_class(reference: str) -> "type[Adapter]":
    """Returns the class of `module`, `module:Class` (in model_adapters/) or `file.py:Class`."""
    from evar.adapter import Adapter

    place, _, name = reference.rpartition(":") if ":" in reference else (reference, "", "")
    with Recording().on():  # what it reads as it is imported belongs to the module
        module = _load_file(Path(place)) if place.endswith(".py") else registry.load(KIND, place)
    if inspect.isclass(module):  # an entry point that names the class itself
        if not issubclass(module, Adapter):
            raise UserError(f"{reference}: {module.__name__} must be a subclass of evar.Adapter")
        return module
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


class _Uncached(SourceFileLoader):
    """Keeps no bytecode, which Python finds stale by size and whole seconds alone."""

    def path_stats(self, path):
        raise OSError(f"{path}: bytecode is not kept")


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
    loader = _Uncached(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: cannot be imported as a Python module")
    module = importlib.util.module_from_spec(spec)
    vars(module)["EVAR_SOURCE"] = content  # what ran, should the file be edited meanwhile
    sys.modules[name] = module  # so that inspect finds the source
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # it may import files that lie beside it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script that leaves would end this one, unscored
        del sys.modules[name]
        raise UserError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error
    return module


def table() -> dict[str, ModelConfig]:
    """Returns all registered models: name -> what is known of it. `evar.models()` is the same."""
    return {name: config(name) for name in names()}


callable_module(__name__, table)
