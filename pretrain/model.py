"""The networks of masked modeling duo, M2D-CLAP and MSM-MAE for pre-training.

M2D-CLAP (Niizumi et al., Interspeech 2024), Section 3. Names of parameters are those of published
checkpoints. B clips, L patches, K visible ones, D width of the encoder, P of the predictor.
"""

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from evar.model_adapters._text import mlp
from evar.model_adapters._vit import ViT, sincos_positions

from .config import Config


class Pretrainer(ViT):
    """The online encoder (a ViT), its predictor and, except in MSM-MAE, the target network.

    text_dim: width of the caption embeddings; they are projected where it is not D.
    """

    pos_embed: Tensor
    norm_stats: Tensor
    decoder_pos_embed: Tensor

    def __init__(self, config: Config, *, text_dim: int = 0):
        super().__init__(
            config.input_size, config.patch_size, config.width, config.depth, config.heads
        )
        self.config = config
        width, inner = config.width, config.predictor_width
        self.mask_token = nn.Parameter(torch.zeros(1, 1, inner))
        self.register_buffer("decoder_pos_embed", sincos_positions(inner, *self.grid))
        self.decoder_embed = nn.Linear(width, inner)
        self.decoder_blocks = _blocks(inner, config.predictor_depth, config.predictor_heads)
        self.decoder_norm = _norm(inner)
        high, wide = config.patch_size
        reconstructs = config.objective == "msm_mae"
        self.decoder_pred = nn.Linear(inner, high * wide if reconstructs else width)
        self.register_buffer("norm_stats", torch.tensor(config.norm_stats or (0.0, 1.0)))
        if not reconstructs:
            self.target_blocks = _blocks(width, config.depth, config.heads).requires_grad_(False)
            self.target_norm = _norm(width).requires_grad_(False)
        if config.objective == "m2d_clap":
            self.logit_scale = nn.Parameter(-torch.tensor(config.temperature).log())
            self.audio_proj = mlp(width, width)
            if text_dim not in (0, width):
                self.text_proj = nn.Linear(text_dim, width)
        self.apply(_initialise)
        nn.init.xavier_uniform_(self.patch_embed["proj"].weight.view(width, -1))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        if not reconstructs:
            for target, online in self.target_pairs():
                target.data.copy_(online)

    def target_pairs(self):
        """Yields (target, online) parameters of blocks and final norm; patches share theirs."""
        for target, online in (
            (self.target_blocks, self.blocks),
            (self.target_norm, self.norm),
        ):
            yield from zip(target.parameters(), online.parameters(), strict=True)

    @torch.no_grad()
    def update_target(self, decay: float) -> None:
        """Sets target weights to decay * target + (1 - decay) * online."""
        targets, onlines = zip(*self.target_pairs(), strict=True)
        torch._foreach_lerp_(list(targets), list(onlines), 1 - decay)

    def patches(self, spectrogram: Tensor) -> Tensor:
        """(B, F, T) -> (B, L, D): embedded patches with their positions, row by row."""
        embedded = self.patch_embed["proj"](spectrogram[:, None])  # (B, D, F', T')
        return embedded.flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]

    def encode_visible(self, patches: Tensor, visible: Tensor) -> Tensor:
        """(B, L, D) and the numbers (B, K) of visible ones -> (B, 1 + K, D), class token first."""
        return self.norm(self.blocks(self._with_class_token(_take(patches, visible))))

    def predict(self, encoded: Tensor, shuffled: Tensor) -> Tensor:
        """(B, 1 + K, D) and the shuffled patches (B, L) -> (B, L - K, ...) of the masked ones."""
        count, kept = shuffled.shape[1], encoded.shape[1] - 1
        x = self.decoder_embed(encoded)  # (B, 1 + K, P)
        masks = self.mask_token.to(x.dtype).expand(len(x), count - kept, -1)
        patches = _take(torch.cat([x[:, 1:], masks], dim=1), shuffled.argsort(dim=1))
        x = torch.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed  # (B, 1 + L, P)
        x = self.decoder_pred(self.decoder_norm(self.decoder_blocks(x)))
        return _take(x[:, 1:], shuffled[:, kept:])

    def encode_target(self, patches: Tensor, masked: Tensor) -> Tensor:
        """(B, L, D) and the numbers (B, L - K) of masked ones -> the target's output for them.

        (B, L - K, D). The target network gets a class token too; its output is left out. It is in
        the precision of the step (autocast), without a graph.
        """
        # Inference mode launches it 6 % faster. Compiled, there is nothing to gain, and its tensors
        # are refused by torch.compile. The loss takes a copy, which is an ordinary tensor.
        compiling = torch.compiler.is_compiling()
        with torch.no_grad() if compiling else torch.inference_mode():
            tokens = self._with_class_token(_take(patches, masked))
            found = self.target_norm(self.target_blocks(tokens))[:, 1:]
        return found if compiling else found.clone()

    def pixels(self, spectrogram: Tensor, masked: Tensor) -> Tensor:
        """(B, F, T) -> (B, L - K, high * wide): normalised values of the masked patches.

        Mean and unbiased variance of each patch (He et al., 2022, "norm_pix_loss").
        """
        high, wide = self.patch_size
        tiles = spectrogram.unfold(1, high, high).unfold(2, wide, wide)  # (B, F', T', high, wide)
        tiles = _take(tiles.flatten(3).flatten(1, 2), masked)
        mean, var = tiles.mean(dim=2, keepdim=True), tiles.var(dim=2, keepdim=True)
        return (tiles - mean) / (var + 1e-6).sqrt()

    def forward(  # type: ignore[override]  # of training: encoder, predictor and target in one
        self, spectrogram: Tensor, shuffled: Tensor, kept: int
    ) -> tuple[Tensor, ...]:
        """(B, F, T) and an order of its patches (B, L), the first `kept` of them visible.

        Returns predictions and targets of the masked patches, (B, L - K, ...) each, and the encoded
        visible patches (B, 1 + K, D).
        """
        visible, masked = shuffled[:, :kept], shuffled[:, kept:]
        patches = self.patches(spectrogram)
        encoded = self.encode_visible(patches, visible)
        predicted = self.predict(encoded, shuffled)
        if self.config.objective == "msm_mae":
            return predicted, self.pixels(spectrogram, masked), encoded
        return predicted, self.encode_target(patches, masked), encoded

    def project(self, encoded: Tensor) -> Tensor:
        """(B, 1 + K, D) -> (B, D): the visible patches' mean in the space of captions."""
        return self.audio_proj(encoded[:, 1:].mean(dim=1))

    def project_text(self, captions: Tensor) -> Tensor:
        """(B, E) caption embeddings -> (B, D)."""
        return self.text_proj(captions) if hasattr(self, "text_proj") else captions

    def _with_class_token(self, tokens: Tensor) -> Tensor:
        first = (self.cls_token + self.pos_embed[:, :1]).to(tokens.dtype)
        return torch.cat([first.expand(len(tokens), -1, -1), tokens], dim=1)


def shuffle(noise: Tensor, ratio: float) -> tuple[Tensor, int]:
    """Noise (B, L) -> an order of the patches (B, L), and K: the first K are visible."""
    return noise.argsort(dim=1), int(noise.shape[1] * (1 - ratio))


def _take(x: Tensor, numbers: Tensor) -> Tensor:
    """(B, L, D), (B, M) -> (B, M, D)."""
    return x.gather(1, numbers[..., None].expand(-1, -1, x.shape[2]))


_norm: Any = partial(nn.LayerNorm, eps=1e-6)  # timm declares a class there


def _blocks(width: int, depth: int, heads: int) -> nn.Sequential:
    return nn.Sequential(
        *(Block(width, heads, 4.0, qkv_bias=True, norm_layer=_norm) for _ in range(depth))
    )


def _initialise(module: nn.Module) -> None:
    """Initialises as MAE does: Xavier-uniform weights, zero biases, norms of gain one."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
