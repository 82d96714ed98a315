"""The transformer every part of CLIP2Video is made of; parameters have OpenAI's names."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

MASKED = -1e6  # added to the scores of masked keys, as the original does (reference 10)


class Attention(nn.Module):
    """Multi-head self-attention whose query, key and value weights are one matrix [3D, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
        B, T, D = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # [B, T, 3D]
        q, k, v = qkv.view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)  # 3 x [B, H, T, D/H]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal)  # [B, H, T, D/H]
        out: Tensor = self.out_proj(y.transpose(1, 2).reshape(B, T, D))  # [B, T, D]
        return out


class Mlp(nn.Module):
    """Two linear layers around QuickGELU, x * sigmoid(1.702 x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c_fc(x)  # [B, T, 4D]
        out: Tensor = self.c_proj(h * torch.sigmoid(1.702 * h))  # [B, T, D]
        return out


class Block(nn.Module):
    """One layer with the norms before attention and MLP.

    Attention and MLP may be cast to a lower precision: tokens and norms stay as they are.
    """

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width)
        self.ln_2 = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
        low = self.mlp.c_fc.weight.dtype
        x = x + self.attn(self.ln_1(x).to(low), bias, causal)  # [B, T, D]
        out: Tensor = x + self.mlp(self.ln_2(x).to(low))  # [B, T, D]
        return out


class Transformer(nn.Module):
    """`layers` blocks over tokens [B, T, D] (reference 6, 7, 10).

    `eps` is that of the layer norms: 1e-5 inside CLIP, 1e-12 in the temporal modules. With `mask`, bool [B,
    T], keys that are false count for nothing. Where all are false (a one-frame video's differences) all
    count, their scores rounded as float32 rounds beside a million: the original's numbers have that rounding,
    so it is kept. With `causal`, no token sees a later one.
    """

    def __init__(self, width: int, layers: int, heads: int, eps: float) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, eps) for _ in range(layers))
        self.recompute = False  # gradient checkpointing: a block's inside is computed again on the way back

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        bias = None
        if mask is not None:
            bias = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, MASKED)[:, None, None, :]  # [B, 1, 1, T]
        for block in self.resblocks:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, bias, causal, use_reentrant=False)
            else:
                x = block(x, bias, causal)  # [B, T, D]
        return x
