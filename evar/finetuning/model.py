"""The network that is fine-tuned: an adapter's encoder, augmentation of its input, and a head."""

import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax
from torch.nn.modules.batchnorm import _BatchNorm

from evar.adapter import Adapter, blocks_of
from evar.errors import UserError, blaming
from evar.finetuning import augment
from evar.finetuning.settings import Settings
from evar.finetuning.streams import Purpose, generator

_HEAD = "evar_head."  # before its tensors' names in a file; an encoder may have a `head` too


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation without affine, over the batches of all processes together."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, dim: int):
        super().__init__(dim, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D); B may differ between processes, and be 0 on some."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        count = torch.tensor(float(len(x)), device=x.device)
        dist.all_reduce(count)
        mean = all_reduce(x.sum(dim=0)) / count
        variance = all_reduce((x - mean).square().sum(dim=0)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        return (x - mean) * (variance + self.eps).rsqrt()


class Head(nn.Module):
    """Batch normalisation, then one linear layer: weights N(0, 0.01), bias 0."""

    def __init__(self, dim: int, classes: int, *, generator: torch.Generator):
        super().__init__()
        self.norm = BatchNorm(dim)
        self.linear = nn.Linear(dim, classes)
        nn.init.normal_(self.linear.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, C) logits."""
        return self.linear(self.norm(x))


class Augment:
    """What training does to (B, F, T) spectrograms: mixing, masks, crops, patches left out.

    Set as the encoder's `augment`. Masks, and how many patches are left out, are the same for a
    whole step; crops and patches are drawn for each position in the step's batch, so that the
    numbers of processes and of parts of a batch change nothing.
    """

    def __init__(self, encoder: Adapter, settings: Settings):
        self.encoder, self.settings = encoder, settings
        self.key: tuple[int, ...] = ()  # seed, fold, epoch, step
        self.places: list[int] = []  # positions in the step's batch of the rows that come next
        self.mixing: Tensor | None = None  # (B, M) weights of M clips in each row; None: M = B

    def __call__(self, features: Tensor) -> Tensor:
        s = self.settings
        if self.mixing is not None:
            self._require_one_each(features, self.mixing.shape[1], "mixed", "--domain=waveform")
            features = torch.einsum("bm,mft->bft", self.mixing, features)
        if s.freq_mask or s.time_mask or s.rrc:
            blank: float | Tensor | None = self.encoder.blank
            if blank is None:  # the mean of each clip, which does not depend on the batch
                blank = features.mean(dim=(1, 2), keepdim=True)
            features = self._cut(features - blank) + blank
        if s.patchout:
            self._require_one_each(features, len(self.places), "thinned out", "--patchout=0")
            self.encoder.keep = self._kept_patches(features).to(features.device)
        return features

    def _require_one_each(self, features: Tensor, clips: int, what: str, remedy: str) -> None:
        if len(features) != clips:
            raise UserError(
                f"{type(self.encoder).__name__}.features gave {len(features)} spectrograms of "
                f"{clips} clips, so that none can be {what} by itself; {remedy}"
            )

    def _kept_patches(self, features: Tensor) -> Tensor:
        """Draws the patches (B, K) that each clip keeps."""
        grid = self.encoder.patch_grid(features)
        assert grid is not None  # else `settings.resolve` turns patchout off
        rows, columns = grid
        counts = augment.patchout_counts(
            rows, columns, self.settings.patchout, generator=generator(Purpose.PATCHOUT, *self.key)
        )
        kept = [
            augment.structured_patchout(
                rows,
                columns,
                counts,
                form=self.settings.patchout_form,
                generator=generator(Purpose.PATCHOUT, *self.key, place),
            )
            for place in self.places
        ]
        return torch.stack(kept)

    def _cut(self, features: Tensor) -> Tensor:
        """Masks, then crops spectrograms in which 0 is silence."""
        s = self.settings
        if s.freq_mask or s.time_mask:
            features = augment.spec_augment(
                features,
                freq_mask=s.freq_mask,
                time_mask=s.time_mask,
                generator=generator(Purpose.MASK, *self.key),
            )
        if s.rrc:
            self._require_one_each(features, len(self.places), "cropped", "--rrc=False")
            own = [generator(Purpose.CROP, *self.key, place) for place in self.places]
            features = augment.random_resize_crop(features, generator=own)
        return features


class Classifier(nn.Module):
    """An encoder and a head: (B, S) waveforms of so many seconds -> (B, C) logits.

    `layers` are the encoder's (`Adapter.layer_parameters`). Of the encoder, exactly the parameters
    of these layers that `freeze` does not name have a gradient, regardless of what they had before.
    """

    def __init__(
        self,
        encoder: Adapter,
        classes: int,
        settings: Settings,
        *,
        seconds: float,
        generator: torch.Generator,
    ):
        super().__init__()
        with blaming(f"{type(encoder).__name__} cannot be trained"):
            self.layers = encoder.layer_parameters(seconds)
        self.encoder = encoder
        self.head = Head(encoder.embed_dim, classes, generator=generator)
        self.augment = Augment(encoder, settings)
        self.mixed = settings.precision == "bf16"
        encoder.requires_grad_(False)
        for parameter in trained_parameters(self.layers, settings.freeze, encoder):
            parameter.requires_grad_(True)
        self.trains_encoder = any(p.requires_grad for p in encoder.parameters())
        if settings.compile:  # each by itself: between them, patches and chunks come and go
            trained = {p for layer in self.layers for p in layer}
            for block in blocks_of(encoder, trained):
                block.compile()

    def train(self, mode: bool = True):
        """Sets the mode; batch normalisation inside the encoder always keeps its statistics."""
        super().train(mode)
        self.encoder.train(mode and self.trains_encoder)
        for module in self.encoder.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        self.encoder.augment = self.augment if mode and self.encoder.has_features else None
        self.encoder.keep = None
        return self

    def forward(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, S) -> (B, C) logits; `lengths` as in `embed`."""
        return self.head(self.embed(audio, lengths))

    def embed(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(M, S) -> (B, D) float32, with a gradient where the encoder is trained.

        lengths: (M,) samples of sound in each clip, for adapters that pad spectrograms by them. M
        is B, unless `augment.mixing` mixes the clips' spectrograms in training.
        """
        dim, mixing = self.encoder.embed_dim, self.augment.mixing if self.training else None
        rows = len(audio) if mixing is None else len(mixing)
        learning = self.training and self.trains_encoder
        if rows == 0:
            return torch.zeros(0, dim, device=audio.device, requires_grad=learning)
        mixed = torch.autocast(audio.device.type, torch.bfloat16, enabled=self.mixed)
        name = type(self.encoder).__name__
        self.encoder.lengths = lengths
        with torch.set_grad_enabled(learning), mixed, blaming(f"{name}.embed()"):
            out = self.encoder.embed(audio).float()
        self.encoder.lengths = None
        if tuple(out.shape) != (rows, dim):
            raise UserError(
                f"{name}.embed gave shape {tuple(out.shape)}, not {(rows, dim)}; `python -m "
                "evar.check MODEL` shows where"
            )
        return out

    def exported(self) -> dict[str, Tensor]:
        """Returns the encoder's tensors by the adapter's names, the head's as "evar_head.*".

        Parameters that the clip embedding does not depend on (a text tower) are left out.
        """
        own = {id(p) for layer in self.layers for p in layer}
        unused = {name for name, p in self.encoder.named_parameters() if id(p) not in own}
        encoder = {k: v for k, v in self.encoder.state_dict().items() if k not in unused}
        head = {f"{_HEAD}{k}": v for k, v in self.head.state_dict().items()}
        return {k: v.detach().cpu().clone().contiguous() for k, v in (encoder | head).items()}

    def load_exported(self, tensors: dict[str, Tensor]) -> None:
        """Loads what `exported` returned. Raises UserError for tensors of another model."""
        head = {k.removeprefix(_HEAD): v for k, v in tensors.items() if k.startswith(_HEAD)}
        encoder = {k: v for k, v in tensors.items() if not k.startswith(_HEAD)}
        self.head.load_state_dict(head)
        unexpected = self.encoder.load_state_dict(encoder, strict=False).unexpected_keys
        if unexpected:
            raise UserError(f"weights of another model: {unexpected[0]} is not in this one")


def trained_parameters(
    layers: list[list[nn.Parameter]], freeze: str | int, encoder: Adapter
) -> list[nn.Parameter]:
    """Returns the encoder's parameters that are trained: all of its layers' but the frozen ones.

    freeze: "patch_embed" freezes weight and bias of the first convolution or linear layer, not the
    tokens or norms next to it (where the first layer has none: all of that layer); N freezes the
    first layer and N blocks, "encoder" everything. Raises UserError where nothing would be left to
    train, or there are fewer blocks.
    """
    name = type(encoder).__name__
    if freeze == "encoder":
        return []
    if not layers:
        raise UserError(
            f"{name} has nothing that could be trained: --freeze=encoder trains the head alone, "
            "and lineareval.py is made for that"
        )
    frozen: set[nn.Parameter] = set()
    if freeze == "patch_embed":
        frozen = _projection(layers[0], encoder) or set(layers[0])
    elif isinstance(freeze, int):
        frozen = {p for layer in layers[: freeze + 1] for p in layer}
    trained = [p for layer in layers for p in layer if p not in frozen]
    if not trained or (isinstance(freeze, int) and freeze + 1 >= len(layers)):
        count = freeze + 1 if isinstance(freeze, int) else 1
        raise UserError(
            f"--freeze={freeze} freezes {count} of the {len(layers)} layers that {name} has from "
            "its input to its output; one has to be left. --freeze=encoder trains the head alone"
        )
    return trained


def _projection(layer: list[nn.Parameter], encoder: Adapter) -> set[nn.Parameter]:
    """Returns the parameters of a layer's first convolution or linear module; () where it has none.

    Parameters of a layer come in the order in which their modules are called.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    owners = {p: m for m in encoder.modules() for p in m.parameters(recurse=False)}
    first = next((owners[p] for p in layer if isinstance(owners[p], kinds)), None)
    return set() if first is None else set(first.parameters()) & set(layer)


def summed_loss(logits: Tensor, y: Tensor, *, multi_label: bool) -> Tensor:
    """Returns the losses of the rows of (B, C), each a mean over classes, summed.

    One label: cross entropy with soft labels y, divided by C. Several: binary cross entropy.
    """
    if multi_label:
        return binary_cross_entropy_with_logits(logits, y, reduction="none").mean(dim=1).sum()
    return -(y * log_softmax(logits, dim=1)).mean(dim=1).sum()


def probabilities(logits: NDArray, *, multi_label: bool) -> NDArray:
    """Returns (N, C) float32: of each class by itself where a clip has several, else of one."""
    x = torch.from_numpy(logits)
    return (x.sigmoid() if multi_label else x.softmax(dim=1)).numpy()
