"""CLIP as one writes it without a thought for speed: float32, nn.MultiheadAttention, nothing fused. To compare with."""

import torch
from torch import Tensor, nn

from clip2video_pipe.models.presets import ClipSize


class QuickGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), QuickGelu(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        h = self.before(x)
        x = x + self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.between(x))


class PlainImageTower(nn.Module):
    """Normalised pixels [N, 3, S, S] to frame vectors [N, E]."""

    def __init__(self, size: ClipSize) -> None:
        super().__init__()
        width = size.vision_width
        self.patches = nn.Conv2d(3, width, size.patch_size, size.patch_size, bias=False)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.zeros((size.image_size // size.patch_size) ** 2 + 1, width))
        self.first, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(width, size.vision_heads) for _ in range(size.vision_layers))
        self.proj = nn.Linear(width, size.embed_dim, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patches(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], 1) + self.positions
        x = self.first(x)
        for layer in self.layers:
            x = layer(x, None)
        vectors: Tensor = self.proj(self.last(x[:, 0]))
        return vectors


class PlainTextTower(nn.Module):
    """Token ids [N, W] to rows [N, W, E]."""

    def __init__(self, size: ClipSize) -> None:
        super().__init__()
        self.tokens = nn.Embedding(size.vocab_size, size.text_width)
        self.positions = nn.Parameter(torch.zeros(size.context_length, size.text_width))
        self.layers = nn.ModuleList(Layer(size.text_width, size.text_heads) for _ in range(size.text_layers))
        self.last = nn.LayerNorm(size.text_width)
        self.proj = nn.Linear(size.text_width, size.embed_dim, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        W = ids.shape[1]
        x = self.tokens(ids) + self.positions[:W]
        mask = torch.full((W, W), -torch.inf).triu(1)
        for layer in self.layers:
            x = layer(x, mask)
        rows: Tensor = self.proj(self.last(x))
        return rows
