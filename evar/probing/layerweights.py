"""Layer weights: a softmax over an encoder's layers, learned together with a linear probe.

SUPERB's weighted sum (Yang et al., Interspeech 2021): one weight for each layer, zeros at first,
softmax, learned by the probe's optimiser at its rate. Here every layer is standardised first, as
the linear probe standardises its input, so that weights of layers of different scale compare, and
a weight of one on a layer is that layer's linear probe. The letters: N rows, B batch, L layers, D
embedding, C classes.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evar.probing import probe
from evar.probing.autograd import linear


class WeightedLayers(nn.Module):
    """Layers (B, L, D) -> logits (B, C) of their weighted sum."""

    def __init__(self, layers: int, dim: int, classes: int, *, generator: torch.Generator):
        super().__init__()
        self.layer_logits = nn.Parameter(torch.zeros(layers))  # softmax: a uniform start
        self.weight = linear((classes, dim), dim, generator)
        self.bias = linear((classes,), dim, generator)

    def layer_weights(self) -> Tensor:
        """Returns the weight of every layer, (L,), of sum 1."""
        return self.layer_logits.softmax(dim=0)

    def forward(self, layers: Tensor) -> Tensor:
        mixed = torch.einsum("l,bld->bd", self.layer_weights(), layers)
        return torch.addmm(self.bias, mixed, self.weight.T)


class Layers:
    """Embeddings of every layer, x (N, L, D) float32: an `autograd.BatchSource`."""

    def __init__(self, x: NDArray, *, device: str = "cpu"):
        self.x, self.device = x, device

    def scaled_by(self, rows: NDArray) -> Callable[[NDArray], tuple[Tensor]]:
        """Returns a reader of (B, L, D) that standardises each layer by its values in `rows`."""
        scalers = [probe.scaler(self.x[:, layer], rows) for layer in range(self.x.shape[1])]
        mean = np.stack([m for m, _ in scalers])  # (L, D)
        scale = np.stack([s for _, s in scalers])

        def read(rows: NDArray) -> tuple[Tensor]:
            scaled = ((self.x[rows] - mean) / scale).astype(np.float32)  # float64 in between
            return (torch.from_numpy(scaled).to(self.device),)

        return read
