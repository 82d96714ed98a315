"""CLIP's layers for CPUs that multiply bfloat16: the same numbers as `transformer.py`, up to that precision.

Weights are reordered once into the blocks that oneDNN's kernels read, which a plain product does anew each time
(about a fifth of it). Products take and give bfloat16, everything between them is float32. `docs/performance.md`
has the measurements.
"""

from typing import cast

import torch
from torch import Tensor, nn

from clip2video_pipe.models.clip import PIXEL_DEVIATION, PIXEL_MEAN, Clip
from clip2video_pipe.models.transformer import Block

ROWS = 2400  # of a product: what weights are reordered for; others are right too
PICTURES = 48  # at a time: their largest activations, 15 MB, stay in the cache
QUICK = 1.702  # QuickGELU(x) = x sigmoid(1.702 x) = silu(1.702 x) / 1.702, and silu is free in a product
MIDDLE = 116  # taken from pixels, which leaves whole numbers that bfloat16 has exactly, about 0


def can_pack(device: torch.device) -> bool:
    """Whether oneDNN has these products here."""
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def pack(clip: Clip) -> None:
    """Make both towers ready, in place; they then serve inference alone."""
    clip.visual.pack(PackedPatches(clip.visual.conv1.weight), PICTURES)
    for tower in (clip.visual.transformer, clip.transformer):
        tower.resblocks = nn.ModuleList(PackedBlock(cast(Block, block)) for block in tower.resblocks)


class PackedLinear:
    """x W^T + b in bfloat16, and `then` ("none", "swish") of it; W is [out, in]."""

    def __init__(self, weight: Tensor, bias: Tensor | None, then: str = "none") -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16().contiguous(), ROWS)
        self.bias = None if bias is None else bias.bfloat16()
        self.then = then

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.then, [], "")
        return y


class PackedBlock(nn.Module):
    """A `Block` without a mask; it adds to the float32 tokens [B, T, D] that it is given."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        attn, mlp = block.attn, block.mlp
        self.heads = attn.heads
        self.ln_1, self.ln_2 = block.ln_1, block.ln_2
        self.qkv = PackedLinear(attn.in_proj_weight, attn.in_proj_bias)
        self.out = PackedLinear(attn.out_proj.weight, attn.out_proj.bias)
        self.fc = PackedLinear(QUICK * mlp.c_fc.weight, QUICK * mlp.c_fc.bias, "swish")
        self.proj = PackedLinear(mlp.c_proj.weight / QUICK, mlp.c_proj.bias)

    def forward(self, x: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
        assert bias is None, "CLIP's towers have no masks"
        x += self.out(self._attend(self.qkv(self.ln_1(x).bfloat16()), causal))  # [B, T, D]
        x += self.proj(self.fc(self.ln_2(x).bfloat16()))  # [B, T, D]
        return x

    def _attend(self, qkv: Tensor, causal: bool) -> Tensor:
        """[B, T, D] of [B, T, 3D]. Products by hand: for this few tokens a third of what torch's fused kernel takes."""
        B, T, D3 = qkv.shape
        q, k, v = qkv.view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # 3 x [B, H, T, D/H]
        scores = q.float() @ k.float().transpose(-1, -2)  # [B, H, T, T]
        scores *= q.shape[-1] ** -0.5
        if causal:
            scores += torch.full((T, T), -torch.inf).triu_(1)
        y: Tensor = scores.softmax(-1).bfloat16() @ v  # [B, H, T, D/H]
        return y.transpose(1, 2).reshape(B, T, D3 // 3)


class PackedPatches:
    """From pictures uint8 [N, S, S, 3] to patch embeddings float32 [N, patches, C]: one product, no pass before it.

    Normalisation is linear, so it goes into the weights and a constant.
    """

    def __init__(self, weight: Tensor) -> None:
        C, _, self.patch, _ = weight.shape
        deviation, mean = torch.tensor(PIXEL_DEVIATION), torch.tensor(PIXEL_MEAN)
        scaled = weight.permute(0, 2, 3, 1).float() / (255 * deviation)  # [C, P, P, 3]: pixels lie like this
        self.linear = PackedLinear(scaled.reshape(C, -1), None)
        self.constant = (scaled * (MIDDLE - 255 * mean)).sum((1, 2, 3))  # [C]

    def __call__(self, pictures: Tensor) -> Tensor:
        N, S, _, _ = pictures.shape
        P, G = self.patch, S // self.patch
        patches = pictures.view(N, G, P, G, P, 3).transpose(2, 3)  # [N, G, G, P, P, 3]
        flat = patches.to(torch.bfloat16, memory_format=torch.contiguous_format).view(N, G * G, -1)
        flat -= MIDDLE
        embedded: Tensor = self.linear(flat).float() + self.constant  # [N, patches, C]
        return embedded
