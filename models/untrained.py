"""Untrained weights that are the same everywhere: for tests, benchmarks and dry runs (reference 18)."""

import hashlib
import math

import torch
from torch import Tensor

from clip2video_pipe.models.presets import ClipSize


def seeded(name: str, shape: tuple[int, ...], size: ClipSize, seed: int) -> Tensor:
    """An untrained value, float32, made from its name, its shape and the seed alone.

    Norms are 1 and 0, biases 0, the scale ln 100; the rest is normal with the deviations CLIP starts from,
    centres with 0.125 (reference 18).
    """
    leaf = name.rpartition(".")[2]
    if leaf == "logit_scale":
        return torch.tensor(math.log(100))
    if leaf.endswith("bias"):
        return torch.zeros(shape)
    if ".ln_" in name or name.startswith("trans_layernorm"):
        return torch.ones(shape)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(shape, generator=generator) * _deviation(name, shape, size)


def _deviation(name: str, shape: tuple[int, ...], size: ClipSize) -> float:
    if name in ("weight_center", "emb_center"):
        return 0.125
    if name == "clip.token_embedding.weight":
        return 0.02
    if name in (
        "clip.positional_embedding",
        "frame_position_embeddings.weight",
        "type_position_embeddings.weight",
    ):
        return 0.01
    if name == "clip.visual.conv1.weight":
        return float(math.prod(shape[1:]) ** -0.5)
    if name.startswith("clip.visual."):
        width, layers = size.vision_width, size.vision_layers
    else:
        width, layers = size.text_width, size.text_layers
    if name.endswith((".out_proj.weight", ".c_proj.weight")):
        return float((2 * width * layers) ** -0.5)
    if name.endswith(".c_fc.weight"):
        return float((2 * width) ** -0.5)
    return float(width**-0.5)
