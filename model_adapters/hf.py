"""Any audio model of transformers, from a folder or the hub: the model name `hf:ORG/NAME`."""

import hashlib
import json

import torch

from evar.adapter import Adapter
from evar.errors import UserError
from evar.weights import first_line

from . import _hf_inputs, _hub, _transformers
from ._frontend import zero_pad

_SHORTEST = (0.1, 0.2, 0.4, 0.8)  # seconds: what the first convolutions need; nearly all, 0.1
_SAYS_NOTHING = ("_name_or_path", "transformers_version", "dtype")  # of what is computed
_FILLS = ("n_samples", "nb_max_samples")  # samples that Whisper's and CLAP's extractors fill up to


class HfModel(Adapter):
    """A transformers model's last hidden state, or other layers, averaged over time.

    The folder's own feature extractor is the front end. Of a model that also reads text or speaks,
    the part that hears is taken; of a codec, what comes before its codes. Where the extractor
    takes clips of a limited length (Whisper, CLAP, AST), longer ones are taken in windows of it,
    or of `seconds`; frames that answer to padding are cut off as far as the extractor marks it.
    Silence follows clips below 0.1 s (up to 0.8 s where a model needs it) where the extractor does
    not fill them up itself. Clips of one batch have one length, so that no padding between them
    reaches a model that would hear it (PE-Audio). `layers` chooses one
    layer (0: before the first block), several, "all" or "mean"; several stand side by side, or
    are averaged with combine="mean". pooling="pooler" takes the model's own pooled output.
    Of a name on the hub, everything is of one commit, which is part of the model's identity:
    `revision` names it, or a branch or a tag (default: main).
    """

    TINY = None  # there is no model without a folder

    def __init__(
        self,
        source: str,
        *,
        revision: str | None = None,
        layers: _transformers.Layers = None,
        combine: str = "stack",
        pooling: str = "mean",
        seconds: float | None = None,
    ):
        super().__init__()
        if pooling not in ("mean", "pooler"):
            raise UserError(f"--pooling={pooling}: it is mean or pooler")
        if seconds is not None and not (
            isinstance(seconds, (int, float)) and seconds >= _SHORTEST[0]
        ):
            raise UserError(f"--seconds={seconds}: it is a number of {_SHORTEST[0]} or more")
        from transformers import AutoModel

        source = _hub.pinned(source, revision)
        self.revision = _hub.commit_of(source)
        self.extractor = _transformers.feature_extractor(source)
        self.sample_rate = self.extractor.sampling_rate
        self.window = round(seconds * self.sample_rate) if seconds else _window(self.extractor)
        whole = _transformers.pretrained(AutoModel, source)
        self.net = _transformers.steady(_hf_inputs.tower(whole, source)).eval()
        # Part of what identifies the model: files of the folder that are no weights.
        config = getattr(self.net, "config", whole.config)
        self.register_buffer("settings", _digest(self.extractor, config))
        self.reads = _hf_inputs.named_parameters(self.net)
        self.pools, self.averages = pooling == "pooler", layers == "mean" or combine == "mean"
        self.layers, self.time_last, self.shortest = None, False, 0
        count = self._probe(source, layers is not None)
        self.layers = _transformers.check_layers(layers, combine, count)
        with torch.no_grad():
            self.embed_dim = self.embed(self._noise(1.0)).shape[1]

    def _noise(self, seconds: float):
        generator = torch.Generator().manual_seed(0)
        return 0.1 * torch.randn(1, round(seconds * self.sample_rate), generator=generator)

    @torch.no_grad()  # not inference_mode: what a model keeps of it must do for training
    def _probe(self, source: str, hidden: bool) -> int:
        """How many blocks the model has; UserError where it does not work as others do."""
        output = self._first_that_works("mask_form", _hf_inputs.MASKS, source, 1.0, hidden)
        if not isinstance(getattr(output, "last_hidden_state", None), torch.Tensor):
            raise UserError(f"{source}: {type(self.net).__name__} returns no hidden states")
        if self.pools and getattr(output, "pooler_output", None) is None:
            raise UserError(
                f"{source}: {type(self.net).__name__} has no pooler: leave --pooling out"
            )
        if not self._fills():
            lengths = [round(seconds * self.sample_rate) for seconds in _SHORTEST]
            short = self._first_that_works("shortest", lengths, source, 0.0, hidden)
            # Latents may be (B, D, T) or (B, T, D): the axis that grows with the clip is time.
            short, long = short.last_hidden_state.shape, output.last_hidden_state.shape
            self.time_last = short[1] == long[1] and short[2] != long[2]
        return len(getattr(output, "hidden_states", None) or [0]) - 1

    def _first_that_works(self, attribute: str, values, source: str, seconds: float, hidden: bool):
        """The output for noise under the first value that does not fail; the attribute keeps it."""
        failure = None
        for value in values:
            setattr(self, attribute, value)
            try:
                return self._output(zero_pad(self._noise(seconds), self.shortest), hidden)[0]
            except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
                failure = failure or error  # the first one: the others are ways around it
        raise UserError(
            f"{source}: {type(self.net).__name__} does not take what "
            f"{type(self.extractor).__name__} gives ({first_line(failure)}). Write an adapter for "
            "it."
        ) from failure

    def _fills(self) -> bool:
        """Whether the extractor fills every clip up to one length."""
        return any(hasattr(self.extractor, name) for name in _FILLS)

    def _output(self, audio, hidden: bool):
        """(B, S) -> the model's output, and which share of its frames is the clip's: (n, of)."""
        clips = [clip.numpy() for clip in audio.float().cpu()]
        inputs = _hf_inputs.extract(self.extractor, clips)
        inputs = {name: value.to(audio.device) for name, value in inputs.items()}
        chosen = _hf_inputs.arguments(self.net, inputs, self.mask_form)
        if _hf_inputs.takes_any(self.net) or "output_hidden_states" in self.reads:
            chosen["output_hidden_states"] = hidden
        output, packed = _hf_inputs.with_states(self.net(**chosen), len(clips), self.time_last)
        mask = _hf_inputs.mask_of(inputs)
        if mask is None or packed:
            return output, (1, 1)
        return output, (int(mask[0].sum()), mask.shape[1])

    def _windows(self, audio):
        size = self.window or audio.shape[1]
        for window in audio.split(size, dim=1):
            window = zero_pad(window, self.shortest)
            yield self._output(window, self.layers is not None)

    def frames(self, audio):
        windows = []
        for output, (own, of) in self._windows(audio):
            states = _transformers.choose(output, self.layers, self.averages)
            if states.ndim == 4:  # (B, D, F, T), of CLAP
                states = states.mean(dim=2).transpose(1, 2)
            windows.append(states[:, : -(-own * states.shape[1] // of)])
        return torch.cat(windows, dim=1)

    def embed(self, audio):
        if not self.pools:
            return self.frames(audio).mean(dim=1)
        return torch.stack([output.pooler_output for output, _ in self._windows(audio)]).mean(dim=0)


def _window(extractor) -> int | None:
    """How many samples the extractor takes before it cuts a clip; None: any number."""
    if type(extractor).__name__ == "ASTFeatureExtractor":
        return 400 + (extractor.max_length - 1) * 160  # Kaldi's frames: 25 and 10 ms at 16 kHz
    for name in _FILLS:
        if isinstance(getattr(extractor, name, None), int):
            return getattr(extractor, name)
    return None


def _digest(extractor, config) -> torch.Tensor:
    """Returns (32,) bytes: the SHA-256 of the settings of front end and network."""
    settings = [
        {k: v for k, v in part.to_dict().items() if k not in _SAYS_NOTHING}
        for part in (extractor, config)
    ]
    text = json.dumps(settings, sort_keys=True, default=str)
    return torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
