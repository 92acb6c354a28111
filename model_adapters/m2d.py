"""The masked modeling duo family: M2D, MSM-MAE, M2D-CLAP (Niizumi et al., 2022-2025)."""

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

NORM_STATS = (-7.1, 4.2)  # mean and standard deviation of the log-mel if a checkpoint has none
_STORED_SECONDS = 6.1  # least length of the clips behind the original's AudioSet log-mels
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
    """Builds the family's front end: 25-ms windows, 10-ms hops, 50 Hz to half the sample rate."""
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
    """Computes the log-mel: (B, S) -> (B, bands, T), natural log of the power."""
    audio = zero_pad(audio, mel.n_fft)  # the edges are reflected
    return (mel(audio) + torch.finfo(torch.float32).eps).log()


class M2D(Adapter):
    """M2D or MSM-MAE: the patches of one time step concatenated, mean over time.

    3,840-d with 80 bands: five patches of 768 per step of 160 ms (Niizumi et al., "Masked modeling
    duo", ICASSP 2023, Section III.B). Clips longer than the network's input are encoded in chunks;
    the last one is zero-padded to whole patches, after standardisation. `flat` averages over all
    patches instead, 768-d. `weights` is a published folder or a file inside one.

    `chunk_frames`: encode so many frames at once, as the original's fine-tuning does, and not as
    many as the network has positions for. An incomplete last patch is then dropped and not padded,
    and the positions of longer chunks are interpolated in time. `norm_stats`: mean and deviation of
    the log-mel, before those of the checkpoint.
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
            raise UserError(f"--chunk_frames={chunk_frames}: must be a whole number of 1 or more")
        promised, state, self.file_config = name, {}, {}
        if weights is not None:
            self.weights = newest(Path(weights))
            name, (state, self.file_config) = self.weights.parent.name, read(self.weights)
            width, depth, heads = (
                int(self.file_config.get(key, usual))
                for key, usual in (("width", width), ("depth", depth), ("heads", heads))
            )
        promised, self.published = Published.parse(promised), Published.parse(name)
        if promised.sample_rate > self.published.sample_rate:
            raise UserError(
                f"{weights}: a checkpoint for {self.published.sample_rate} Hz, but this model is "
                f"for {promised.sample_rate} Hz (m2d and m2d_clap load both)"
            )
        self.sample_rate = self.published.sample_rate
        self.flat = flat
        bands, high, wide = self.published.input_size[0], *self.published.patch_size
        steps = steps_of(state, self.published)
        self.backbone = ViT((bands, steps * wide), (high, wide), width, depth, heads)
        self.drops_rest = chunk_frames is not None  # frames that fill no patch
        self.chunk = wide * (max(1, chunk_frames // wide) if chunk_frames else steps)  # frames
        # The first MSM-MAE, recognised by its missing key bias, encoded chunks of full length only.
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
        """Builds what a subclass has beyond the encoder, from the checkpoint's tensors if any."""

    def logmel(self, audio: Tensor) -> Tensor:
        """Computes the log-mel: (B, S) -> (B, 80, T), natural log of power, not standardised."""
        return log_mel(self.mel, audio)

    def features(self, audio):
        mean, std = self.norm_stats
        logmel = self.logmel(audio) if self.lengths is None else self._stored_logmel(audio)
        return (logmel - mean) / std

    def _stored_logmel(self, audio: Tensor) -> Tensor:
        """(B, S) clips of `lengths` samples -> (B, 80, T) as the original's AudioSet log-mels are.

        Clips are silent up to 6.1 s; the rest is 0 in the log-mel itself, not in the waveform.
        """
        logmel = self.logmel(audio)
        for i, length in enumerate(self.lengths.tolist()):
            heard = max(length, int(_STORED_SECONDS * self.sample_rate))
            if heard < audio.shape[1]:
                own = self.logmel(audio[i : i + 1, :heard])[0]
                logmel[i] = pad(own, (0, logmel.shape[2] - own.shape[1]))
        return logmel

    def columns(self, frames: int) -> int:
        """Patches in time of a spectrogram of so many frames."""
        wide = self.backbone.patch_size[1]
        return max(1, frames // wide) if self.drops_rest else -(-frames // wide)

    def chunks(self, features: Tensor) -> list[Tensor]:
        """Splits (B, F, T) into pieces of at most `chunk` frames; the last is padded to patches."""
        features = features[:, :, : self.columns(features.shape[2]) * self.backbone.patch_size[1]]
        whole = self.chunk if self.whole else self.backbone.patch_size[1]
        return [pad(c, (0, -c.shape[2] % whole)) for c in features.split(self.chunk, dim=2)]

    def tokens(self, features: Tensor) -> Tensor:
        """Encodes all patches, chunk after chunk: (B, F, T) -> (B, F', T', D)."""
        tokens = torch.cat([self.backbone(chunk) for chunk in self.chunks(features)], dim=2)
        return tokens[:, :, : self.columns(features.shape[2])]

    def patch_grid(self, features):
        if not self.flat:  # a frame needs all patches of its time step
            return None
        return self.backbone.grid[0], self.columns(features.shape[2])

    def kept_tokens(self, features: Tensor, keep: Tensor) -> Tensor:
        """(B, F, T) -> (B, K, D): patches of `patch_grid`, encoded without the clip's others.

        keep: (K,), or (B, K) for each clip its own.
        """
        if not self.flat:
            raise ValueError("patches can be left out of flat embeddings only: flat=True")
        if keep.ndim == 2:
            chunks, columns = self.chunks(features), self.patch_grid(features)[1]
            if len(chunks) == 1:
                return self._kept_of_chunk(chunks[0], keep, columns)
            # Clips keep different numbers of patches of a chunk, so that each is encoded alone.
            clips = zip(features.split(1), keep, strict=True)
            return torch.cat([self.kept_tokens(clip, own) for clip, own in clips])
        rows, columns = self.patch_grid(features)
        row, column = keep // columns, keep % columns
        steps = self.chunk // self.backbone.patch_size[1]
        tokens, order = [], []
        for i, chunk in enumerate(self.chunks(features)):
            own = (column // steps == i).nonzero().flatten()
            count = rows * (chunk.shape[2] // self.backbone.patch_size[1])
            grid = torch.arange(count, device=keep.device).view(rows, -1)
            kept = grid[row[own], column[own] - i * steps]
            padding = grid[:, max(0, columns - i * steps) :].flatten()  # the padding is encoded too
            tokens.append(self.backbone(chunk, torch.cat([kept, padding]))[:, : len(kept)])
            order.append(own)
        return torch.cat(tokens, dim=1)[:, torch.cat(order).argsort()]

    def _kept_of_chunk(self, chunk: Tensor, keep: Tensor, columns: int) -> Tensor:
        """(B, F, T) with `columns` of sound, (B, K) -> (B, K, D)."""
        grid = torch.arange(self.backbone.grid[0] * (chunk.shape[2] // self.backbone.patch_size[1]))
        grid = grid.to(keep.device).view(self.backbone.grid[0], -1)
        padding = grid[:, columns:].flatten().expand(len(keep), -1)  # heard, where there is any
        kept = grid[keep // columns, keep % columns]
        return self.backbone(chunk, torch.cat([kept, padding], dim=1))[:, : keep.shape[1]]

    def encode(self, features):
        if self.keep is not None:
            return self.kept_tokens(features, self.keep)
        tokens = self.tokens(features)
        if self.flat:
            return tokens.flatten(1, 2)  # (B, F' T', D)
        return tokens.transpose(1, 2).flatten(2)  # (B, T', F' D)


class M2DCLAP(M2D):
    """M2D-CLAP (Niizumi et al., Interspeech 2024): M2D with a projection into a caption space.

    Linear evaluation uses M2D's embedding. In the joint space a clip is the projected mean over all
    patches, a caption the mean over the tokens of a frozen sentence encoder. That encoder is
    `text_encoder` (a folder or hub name; a folder of that name in the weights folder has
    precedence), else the one inside the checkpoint (with `tokenizer`, a folder or hub name), else
    the one that the checkpoint's folder name implies: GTE-base in 2024.
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
        encoder = self.file_config.get("text_encoder") or self.published.text_encoder
        if text_encoder is not None:
            self.bert = None  # the user's choice overrides the encoder in the file
        if self.bert is not None:
            size = self.bert.config.vocab_size
            self.tokenizer = _text.Tokenizer(tokenizer or encoder, size, max_length=512)
        self.sentences = _text.SentenceEncoder(text_encoder or encoder)

    def _build_joint(self, state, width, heads):
        self.joint_dim = width
        self.audio_proj = self._projector(_m2d_clap.below(state, "audio_proj."), width, heads)
        self.text_proj = _m2d_clap.text_projector(state, self.weights)
        self.bert = _m2d_clap.included_bert(state, self.weights)

    def _projector(self, state: dict[str, Tensor], width: int, heads: int) -> nn.Module:
        if any(name.startswith("sem_") for name in state):
            raise UserError(
                f"{self.weights}: has the transformer projector of the 2025 models: use the model "
                "m2d_clap_2025"
            )
        if self.weights is not None and not state:
            raise UserError(
                f"{self.weights}: holds no audio projector (audio_proj.* is missing), so that "
                "there is no joint space; use the model m2d for linear evaluation of this file"
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

    Linear evaluation uses M2D's embedding. The joint space is UNVERIFIED: how the projector works,
    and that captions are the mean over BERT's tokens, is inferred from the names of the tensors
    (`_m2d_clap.TransformerProjector`). A checkpoint with other tensors still loads for linear
    evaluation; using its joint space raises UserError, which names the difference.
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
                "it with published zero-shot figures before quoting scores",
                stacklevel=3,
            )

    def embed_joint(self, audio):
        self._require_joint()
        return self.audio_proj(self.tokens(self.features(audio)).flatten(1, 2))

    def embed_text(self, captions):
        self._require_joint()
        return super().embed_text(captions)


def _statistics(given) -> Tensor:
    """Returns (2,) mean and standard deviation, from a checkpoint or --norm_stats."""
    try:
        mean, std = (float(value) for value in given)
    except (TypeError, ValueError):
        mean = std = 0.0
    if not std > 0:
        raise UserError(f"norm_stats={given}: must be MEAN,DEVIATION, two numbers")
    return torch.tensor([mean, std])
