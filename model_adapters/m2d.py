"""Masked modeling duo and its kin: M2D, MSM-MAE, M2D-CLAP (Niizumi et al., 2022-2025)."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn.functional import pad

from evar.adapter import Adapter
from evar.errors import UserError

from . import _m2d_clap, _published, _text
from ._frontend import zero_pad
from ._m2d_files import Published, joined, newest, read, steps_of
from ._vit import ViT

NORM_STATS = (-7.1, 4.2)  # mean and deviation of the log-mel, where a checkpoint has none
_UNUSED = (  # of pre-training: predictors, the target network, the losses; other heads
    "mask_token",
    "decoder_",
    "target_",
    "offline_predictor.",
    "logit_scale",
    "audio_proj.",
    "text_proj.",
    "text_encoder.",
    "head.",
)


def mel_spectrogram(sample_rate: int, bands: int) -> torchaudio.transforms.MelSpectrogram:
    """The front end of the family: windows of 25 ms, steps of 10 ms, 50 Hz to half the rate."""
    scale = sample_rate // 16000
    return torchaudio.transforms.MelSpectrogram(
        sample_rate,
        n_fft=400 * scale,
        win_length=400 * scale,
        hop_length=160 * scale,
        f_min=50.0,
        f_max=8000.0 * scale,
        n_mels=bands,
        norm="slaney",
        mel_scale="slaney",
    )


def log_mel(mel: torchaudio.transforms.MelSpectrogram, audio: Tensor) -> Tensor:
    """(B, S) -> (B, bands, T), natural log of the power."""
    audio = zero_pad(audio, mel.n_fft)  # the edges are reflected
    return (mel(audio) + torch.finfo(torch.float32).eps).log()


class M2D(Adapter):
    """M2D or MSM-MAE: the patches of one time step side by side, mean over time.

    3,840-d at 80 bands: five patches of 768 a step of 160 ms (Niizumi et al., "Masked modeling
    duo", ICASSP 2023, Section III.B). Clips longer than the network's input are encoded in chunks;
    the last one is padded with zeros, after standardisation, to whole patches. `flat` gives the
    mean over all patches, 768-d. `weights` is a published folder or a file inside one.

    `chunk_frames`: encode so many frames at once, and not as many as the network has positions
    for; where they are more, the positions are interpolated linearly in time, which no reference
    case confirms. `norm_stats`: mean and deviation of the log-mel, before those of the checkpoint.
    """

    lr = 3e-5
    blank = 0.0  # features are standardised
    TINY = {"width": 24, "depth": 2, "heads": 2}

    def __init__(
        self,
        weights: Path | None = None,
        *,
        name: str = "m2d_vit_base-80x608p16x16",
        flat: bool = False,
        chunk_frames: int | None = None,
        norm_stats: Sequence[float] | None = None,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
    ):
        super().__init__(weights)
        if chunk_frames is not None and not (isinstance(chunk_frames, int) and chunk_frames > 0):
            raise UserError(f"--chunk_frames={chunk_frames}: it is a whole number of 1 or more")
        promised, state, self.told = name, {}, {}
        if weights is not None:
            self.weights = newest(Path(weights))
            name, (state, self.told) = self.weights.parent.name, read(self.weights)
            width, depth, heads = (
                int(self.told.get(key, usual))
                for key, usual in (("width", width), ("depth", depth), ("heads", heads))
            )
        promised, self.published = Published.parse(promised), Published.parse(name)
        if promised.sample_rate > self.published.sample_rate:
            raise UserError(
                f"{weights}: a network for {self.published.sample_rate} Hz, which this model of "
                f"{promised.sample_rate} Hz is not (m2d and m2d_clap take both)"
            )
        self.sample_rate = self.published.sample_rate
        self.flat = flat
        bands, high, wide = self.published.input_size[0], *self.published.patch_size
        steps = steps_of(state, self.published)
        self.backbone = ViT((bands, steps * wide), (high, wide), width, depth, heads)
        self.chunk = -(-chunk_frames // wide) * wide if chunk_frames else steps * wide  # frames
        # The first MSM-MAE, told by its attention without key bias, saw every chunk in full length.
        self.whole = any(name.endswith(".q_bias") for name in state)
        self.embed_dim = width if flat else width * (bands // high)
        self.frame_seconds = None if flat else 0.01 * wide
        self.mel = mel_spectrogram(self.sample_rate, bands)
        stored = state.pop("norm_stats", NORM_STATS)
        self.register_buffer(
            "norm_stats", _statistics(stored if norm_stats is None else norm_stats)
        )
        if weights is not None:
            text = _m2d_clap.text_prefix(state).partition(".")[0]
            unused = [*_UNUSED, f"{text}."] if text else _UNUSED
            _published.load(self.backbone, joined(state), self.weights, ignore=unused)
        self._build_joint(state, width, heads)

    def _build_joint(self, state: dict[str, Tensor], width: int, heads: int) -> None:
        """For subclasses: modules beyond the encoder, from the checkpoint's tensors (or none)."""

    def logmel(self, audio: Tensor) -> Tensor:
        """(B, S) -> (B, 80, T), natural log of the power, not standardised."""
        return log_mel(self.mel, audio)

    def features(self, audio):
        mean, std = self.norm_stats
        return (self.logmel(audio) - mean) / std

    def chunks(self, features: Tensor) -> list[Tensor]:
        """(B, F, T) -> pieces of at most `chunk` frames, the last one padded to whole patches."""
        whole = self.chunk if self.whole else self.backbone.patch_size[1]
        return [pad(c, (0, -c.shape[2] % whole)) for c in features.split(self.chunk, dim=2)]

    def tokens(self, features: Tensor) -> Tensor:
        """(B, F, T) -> (B, F', T', D): all patches, chunk after chunk."""
        tokens = torch.cat([self.backbone(chunk) for chunk in self.chunks(features)], dim=2)
        return tokens[:, :, : -(-features.shape[2] // self.backbone.patch_size[1])]

    def patch_grid(self, features):
        if not self.flat:  # patches of one time step, of which some are missing, make no frame
            return None
        return self.backbone.grid[0], -(-features.shape[2] // self.backbone.patch_size[1])

    def kept_tokens(self, features: Tensor, keep: Tensor) -> Tensor:
        """(B, F, T) -> (B, K, D): patches of `patch_grid`, encoded without the clip's others."""
        if not self.flat:
            raise ValueError("only flat features can do without patches: flat=True")
        rows, columns = self.patch_grid(features)
        row, column = keep // columns, keep % columns
        steps = self.chunk // self.backbone.patch_size[1]
        tokens, order = [], []
        for i, chunk in enumerate(self.chunks(features)):
            own = (column // steps == i).nonzero().flatten()
            count = rows * (chunk.shape[2] // self.backbone.patch_size[1])
            grid = torch.arange(count, device=keep.device).view(rows, -1)
            kept = grid[row[own], column[own] - i * steps]
            padding = grid[:, max(0, columns - i * steps) :].flatten()  # heard, where there is any
            tokens.append(self.backbone(chunk, torch.cat([kept, padding]))[:, : len(kept)])
            order.append(own)
        return torch.cat(tokens, dim=1)[:, torch.cat(order).argsort()]

    def encode(self, features):
        if self.keep is not None:
            return self.kept_tokens(features, self.keep)
        tokens = self.tokens(features)
        if self.flat:
            return tokens.flatten(1, 2)  # (B, F' T', D)
        return tokens.transpose(1, 2).flatten(2)  # (B, T', F' D)


class M2DCLAP(M2D):
    """M2D-CLAP (Niizumi et al., Interspeech 2024): M2D with a way into a caption space.

    Linear evaluation is M2D's. In the joint space a clip is the mean over all patches through the
    audio projector, a caption the mean over the tokens of a frozen sentence encoder. That is
    `text_encoder` (a folder or hub name; a folder of that name in the weights folder comes first),
    else the one inside the checkpoint (with `tokenizer`, a folder or hub name), else the one that
    the checkpoint's folder name tells: GTE-base in 2024.
    """

    joint_dim = 768

    def __init__(
        self,
        weights: Path | None = None,
        *,
        name: str = "m2d_clap_vit_base-80x608p16x16",
        text_encoder: str | None = None,
        tokenizer: str | None = None,
        flat: bool = False,
        chunk_frames: int | None = None,
        norm_stats: Sequence[float] | None = None,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
    ):
        super().__init__(
            weights,
            name=name,
            flat=flat,
            chunk_frames=chunk_frames,
            norm_stats=norm_stats,
            width=width,
            depth=depth,
            heads=heads,
        )
        told = self.told.get("text_encoder") or self.published.text_encoder
        if text_encoder is not None:
            self.bert = None  # what the user names comes before what the file holds
        if self.bert is not None:
            size = self.bert.config.vocab_size
            self.tokenizer = _text.Tokenizer(tokenizer or told, size, max_length=512)
        self.sentences = _text.SentenceEncoder(text_encoder or told)

    def _build_joint(self, state, width, heads):
        self.joint_dim = width
        self.audio_proj = self._projector(_m2d_clap.below(state, "audio_proj."), width, heads)
        self.text_proj = _m2d_clap.text_projector(state, self.weights)
        self.bert = _m2d_clap.included_bert(state, self.weights)

    def _projector(self, state: dict[str, Tensor], width: int, heads: int) -> nn.Module:
        if any(name.startswith("sem_") for name in state):
            raise UserError(
                f"{self.weights}: has the transformer projector of the 2025 models: the model is "
                "m2d_clap_2025"
            )
        if self.weights is not None and not state:
            raise UserError(
                f"{self.weights}: holds no audio projector (audio_proj.* is missing), so that "
                "there is no joint space; the model m2d takes this file for linear evaluation"
            )
        projector = _text.mlp(width, width)
        if state:
            _published.load(projector, state, self.weights)
        return projector

    text_options = ("text_encoder", "tokenizer")

    def embed_joint(self, audio):
        return self.audio_proj(self.tokens(self.features(audio)).mean(dim=(1, 2)))

    def text_identity(self):
        part = self.sentences if self.bert is None else self.tokenizer
        return {"text_encoder": part.identity()}

    def embed_text(self, captions):
        device = self.norm_stats.device
        if self.bert is None:
            return self.text_proj(self.sentences(captions, device))
        ids, mask = (part.to(device) for part in self.tokenizer(list(captions)))
        return self.text_proj(_m2d_clap.mean_states(self.bert, ids, mask))


class M2DCLAP2025(M2DCLAP):
    """M2D-CLAP of 2025 (Niizumi et al., arXiv 2503.22104): a transformer as audio projector.

    Its linear evaluation is M2D's. Its joint space is UNVERIFIED: how the projector is computed,
    and that captions are the mean over BERT's tokens, is inferred from the names of the tensors
    (`_m2d_clap.TransformerProjector`). Where a checkpoint has other tensors than inferred, it still
    loads for linear evaluation, and the joint space is refused with what differs.
    """

    def _build_joint(self, state, width, heads):
        self.refusal = None
        try:
            super()._build_joint(state, width, heads)
        except UserError as error:
            self.refusal, self.joint_dim = error, width
            self.audio_proj = self.text_proj = self.bert = None

    def _projector(self, state, width, heads):
        depth = _m2d_clap.count(state, "sem_blocks.") or 1
        projector = _m2d_clap.TransformerProjector(width, depth, heads)
        if self.weights is not None:
            _published.load(projector, state, self.weights)
        return projector

    def _require_joint(self):
        if self.refusal is not None:
            raise UserError(f"No joint space of the 2025 models: {self.refusal}")
        if self.weights is not None:
            warnings.warn(
                "the joint space of the 2025 M2D-CLAP models is inferred, not verified: compare "
                "with published zero-shot figures before you quote it",
                stacklevel=3,
            )

    def embed_joint(self, audio):
        self._require_joint()
        return self.audio_proj(self.tokens(self.features(audio)).flatten(1, 2))

    def embed_text(self, captions):
        self._require_joint()
        return super().embed_text(captions)


def _statistics(given) -> Tensor:
    """(2,) mean and deviation, of a checkpoint or of --norm_stats."""
    try:
        mean, std = (float(value) for value in given)
    except (TypeError, ValueError):
        mean = std = 0.0
    if not std > 0:
        raise UserError(f"norm_stats={given}: it is MEAN,DEVIATION, two numbers")
    return torch.tensor([mean, std])
