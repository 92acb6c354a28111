"""HTS-AT (Chen et al., ICASSP 2022); also the audio tower of three audio-language models.

transformers' `ClapAudioModel` is this network; only the names of its parameters differ.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import ClapAudioConfig, ClapAudioModel

FRAMES = 1001  # of a 10-s window; the network interpolates them to its 1,024

# Published files also hold the front end, attention masks and two classifiers, which an encoder
# computes itself or does not need.
_UNUSED = (
    "spectrogram_extractor.",
    "logmel_extractor.",
    "audio_feats_extractor.",
    "tscam_conv.",
    "head.",
)

# Within a block. The order matters: attn.proj has to be renamed before mlp.fc2 becomes `output`.
_RENAMED = (
    ("attn.proj.", "attention.output.dense."),
    ("attn.relative_", "attention.self.relative_"),
    ("mlp.fc1.", "intermediate.dense."),
    ("mlp.fc2.", "output.dense."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
)


def build(width: int = 96, depths: Sequence[int] = (2, 2, 6, 2)) -> ClapAudioModel:
    """Builds an HTS-AT with `width` channels in its first stage, doubled in each further one."""
    heads = [max(1, width // 24) * 2**stage for stage in range(len(depths))]
    return ClapAudioModel(
        ClapAudioConfig(
            patch_embeds_hidden_size=width,
            hidden_size=width * 2 ** (len(depths) - 1),
            depths=list(depths),
            num_attention_heads=heads,
        )
    )


def stages(model: ClapAudioModel) -> nn.ModuleList:
    """Returns the four stages, from input to output."""
    return model.audio_encoder.layers


def rename(state: dict[str, Tensor], prefix: str, target: str) -> dict[str, Tensor]:
    """Renames HTS-AT's tensors below `prefix` to ClapAudioModel's below `target`; keeps others."""
    renamed = {}
    for name, value in state.items():
        if not name.startswith(prefix):
            renamed[name] = value
            continue
        name = name.removeprefix(prefix)
        if name.startswith(_UNUSED) or name.endswith(".attn_mask"):
            continue
        for old, new in _RENAMED if ".blocks." in name else (("bn0.", "batch_norm."),):
            name = name.replace(old, new)
        name = f"{target}audio_encoder.{name}"
        if ".attn.qkv." in name:
            for part, tensor in zip(("query", "key", "value"), value.chunk(3, dim=0), strict=True):
                renamed[name.replace("attn.qkv", f"attention.self.{part}")] = tensor
        else:
            renamed[name] = value
    return renamed


def frames(model: ClapAudioModel, logmel: Tensor) -> Tensor:
    """Returns frames, (B, 64, T <= 1024) log-mel in dB -> (B, 32, D), averaged over frequency."""
    # ClapAudioModel wants (B, 1, T, 64) and returns (B, D, 2, 32), normalised.
    hidden = model(input_features=logmel.transpose(1, 2)[:, None]).last_hidden_state
    return hidden.mean(dim=2).transpose(1, 2)


def clip(model: ClapAudioModel, logmel: Tensor) -> Tensor:
    """Returns the mean over all tokens: (B, 64, T <= 1024) log-mel in dB -> (B, D)."""
    return frames(model, logmel).mean(dim=1)
