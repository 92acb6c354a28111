"""The network that is fine-tuned: an adapter's encoder, what augments its input, and a head."""

import torch
import torch.distributed as dist
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
    """What training does to (B, F, T) spectrograms: masks, crops, and patches left out.

    Set as the encoder's `augment`. Masks and patches are the same for a whole step, crops belong
    to a place in the step's batch, so that neither processes nor parts of a batch matter.
    """

    def __init__(self, encoder: Adapter, settings: Settings):
        self.encoder, self.settings = encoder, settings
        self.key: tuple[int, ...] = ()  # seed, fold, epoch, step
        self.places: list[int] = []  # in the step's batch, of the rows that come next

    def __call__(self, features: Tensor) -> Tensor:
        s = self.settings
        if s.freq_mask or s.time_mask or s.rrc:
            blank = self.encoder.blank
            if blank is None:  # of each clip by itself, whoever shares its batch
                blank = features.mean(dim=(1, 2), keepdim=True)
            features = self._cut(features - blank) + blank
        if s.patchout:
            rows, columns = self.encoder.patch_grid(features)
            kept = augment.structured_patchout(
                rows, columns, s.patchout, generator=generator(Purpose.PATCHOUT, *self.key)
            )
            self.encoder.keep = kept.to(features.device)
        return features

    def _cut(self, features: Tensor) -> Tensor:
        """Mask, then crop, where 0 is nothing."""
        s = self.settings
        if s.freq_mask or s.time_mask:
            features = augment.spec_augment(
                features,
                freq_mask=s.freq_mask,
                time_mask=s.time_mask,
                generator=generator(Purpose.MASK, *self.key),
            )
        if s.rrc:
            if len(features) != len(self.places):
                raise UserError(
                    f"{type(self.encoder).__name__}.features gave {len(features)} spectrograms of "
                    f"{len(self.places)} clips: none can be cropped by itself; --rrc=False"
                )
            crops = [
                augment.random_resize_crop(
                    features[i : i + 1], generator=generator(Purpose.CROP, *self.key, place)
                )
                for i, place in enumerate(self.places)
            ]
            features = torch.cat(crops)
        return features


class Classifier(nn.Module):
    """An encoder and a head: (B, S) waveforms of so many seconds -> (B, C) logits.

    `layers` are the encoder's (`Adapter.layer_parameters`), those that `freeze` names left fixed.
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
        for parameter in frozen_apart(self.layers, settings.freeze, encoder):
            parameter.requires_grad_(True)
        self.trains_encoder = any(p.requires_grad for p in encoder.parameters())
        if settings.compile:  # each by itself: between them, patches and chunks come and go
            trained = {p for layer in self.layers for p in layer}
            for block in blocks_of(encoder, trained):
                block.compile()

    def train(self, mode: bool = True):
        """As everywhere, but batch normalisation inside the encoder keeps its statistics."""
        super().train(mode)
        self.encoder.train(mode and self.trains_encoder)
        for module in self.encoder.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        self.encoder.augment = self.augment if mode and self.encoder.has_features else None
        self.encoder.keep = None
        return self

    def forward(self, audio: Tensor) -> Tensor:
        return self.head(self.embed(audio))

    def embed(self, audio: Tensor) -> Tensor:
        """(B, S) -> (B, D) float32, with a gradient where the encoder is trained."""
        dim = self.encoder.embed_dim
        learning = self.training and self.trains_encoder
        if len(audio) == 0:
            return torch.zeros(0, dim, device=audio.device, requires_grad=learning)
        mixed = torch.autocast(audio.device.type, torch.bfloat16, enabled=self.mixed)
        name = type(self.encoder).__name__
        with torch.set_grad_enabled(learning), mixed, blaming(f"{name}.embed()"):
            out = self.encoder.embed(audio).float()
        if tuple(out.shape) != (len(audio), dim):
            raise UserError(
                f"{name}.embed gave shape {tuple(out.shape)}, not {(len(audio), dim)}; `python -m "
                "evar.check MODEL` shows where"
            )
        return out

    def exported(self) -> dict[str, Tensor]:
        """Tensors of the encoder, by the adapter's names, and of the head, as "evar_head.*".

        What the clip embedding does not depend on (a text tower) is left out.
        """
        own = {id(p) for layer in self.layers for p in layer}
        unused = {name for name, p in self.encoder.named_parameters() if id(p) not in own}
        encoder = {k: v for k, v in self.encoder.state_dict().items() if k not in unused}
        head = {f"{_HEAD}{k}": v for k, v in self.head.state_dict().items()}
        return {k: v.detach().cpu().clone().contiguous() for k, v in (encoder | head).items()}

    def load_exported(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `exported` gave."""
        head = {k.removeprefix(_HEAD): v for k, v in tensors.items() if k.startswith(_HEAD)}
        encoder = {k: v for k, v in tensors.items() if not k.startswith(_HEAD)}
        self.head.load_state_dict(head)
        unexpected = self.encoder.load_state_dict(encoder, strict=False).unexpected_keys
        if unexpected:
            raise UserError(f"weights of another model: {unexpected[0]} is not in this one")


def frozen_apart(
    layers: list[list[nn.Parameter]], freeze: str | int, encoder: Adapter
) -> list[nn.Parameter]:
    """The encoder's parameters that are trained: all layers, but those that `freeze` names.

    "patch_embed" fixes the first layer, N the first and N blocks more, "encoder" all of them.
    Raises UserError where nothing can be trained that should be, or there are fewer blocks.
    """
    name = type(encoder).__name__
    if freeze == "encoder":
        return []
    if not layers:
        raise UserError(
            f"{name} has nothing that could be trained: --freeze=encoder trains the head alone, "
            "and lineareval.py is made for that"
        )
    first = {"none": 0, "patch_embed": 1}[freeze] if isinstance(freeze, str) else freeze + 1
    if first >= len(layers):
        raise UserError(
            f"--freeze={freeze} fixes {first} of the {len(layers)} layers that {name} has from its "
            "input to its output; one has to be left. --freeze=encoder trains the head alone"
        )
    return [p for layer in layers[first:] for p in layer]


def summed_loss(logits: Tensor, y: Tensor, *, multi_label: bool) -> Tensor:
    """The losses of the rows of (B, C), each a mean over classes, summed.

    One label: cross entropy with soft labels y, divided by C. Several: binary cross entropy.
    """
    if multi_label:
        return binary_cross_entropy_with_logits(logits, y, reduction="none").mean(dim=1).sum()
    return -(y * log_softmax(logits, dim=1)).mean(dim=1).sum()


def scores_of(logits: Tensor, *, multi_label: bool) -> Tensor:
    """(B, C) probabilities: of each class by itself where a clip has several, else of one."""
    return logits.sigmoid() if multi_label else logits.softmax(dim=1)
