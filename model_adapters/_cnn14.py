"""CNN14 of PANNs (Kong et al., TASLP 2020); also the audio tower of MS-CLAP 2022."""

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu

from ._frontend import zero_pad

MIN_FRAMES = 32  # five poolings by two leave one frame

# Published files also hold the front end, which the adapter computes itself, and the classifier of
# AudioSet.
UNUSED = ("spectrogram_extractor.", "logmel_extractor.", "fc_audioset.")


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation and ReLU, then average pooling."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, pool: int) -> Tensor:
        """(B, C, T, F) -> (B, C', T / pool, F / pool)."""
        x = relu(self.bn1(self.conv1(x)))
        x = relu(self.bn2(self.conv2(x)))
        return avg_pool2d(x, pool)


class Cnn14Net(nn.Module):
    """Six blocks of 64, 128, ..., 2,048 channels (`width` times 1, 2, ..., 32) and one layer."""

    def __init__(self, width: int = 64, n_mels: int = 64):
        super().__init__()
        self.bn0 = nn.BatchNorm2d(n_mels)
        channels = [1, *(width * 2**i for i in range(6))]
        for i in range(6):
            setattr(self, f"conv_block{i + 1}", Block(channels[i], channels[i + 1]))
        self.dim = channels[-1]
        self.fc1 = nn.Linear(self.dim, self.dim)

    def blocks(self) -> list[Block]:
        """Returns the six blocks, from input to output."""
        return [getattr(self, f"conv_block{i + 1}") for i in range(6)]

    def frames(self, logmel: Tensor) -> Tensor:
        """Returns frame embeddings: (B, F, T) log-mel in dB -> (B, T / 32, D)."""
        # Batch normalisation per mel band: the bands are moved to the channel dimension.
        x = self.bn0(logmel[..., None])[..., 0]  # (B, F, T)
        x = x.transpose(1, 2)[:, None]  # (B, 1, T, F)
        for i, block in enumerate(self.blocks()):
            x = block(x, pool=2 if i < 5 else 1)
        return x.mean(dim=3).transpose(1, 2)

    def clip(self, frames: Tensor) -> Tensor:
        """Pools frames: (B, T, D) -> (B, D), maximum plus mean over time, then the last layer."""
        return relu(self.fc1(frames.amax(dim=1) + frames.mean(dim=1)))


def enough(audio: Tensor, hop: int) -> Tensor:
    """Appends silence to a clip too short for all poolings (0.3 s): (B, S) -> (B, S')."""
    return zero_pad(audio, (MIN_FRAMES - 1) * hop)
