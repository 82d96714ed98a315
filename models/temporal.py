"""From frame vectors to the global video vector (CLIP2Video, arXiv 2106.11097, sec. 3.2; reference 8-10).

Frames are [B, L, D] with a bool mask [B, L], true on real frames, which come first. Weights are arguments:
they live in `Clip2Video` under the original's names.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip2video_pipe.models.transformer import Transformer

LAYERS = 4  # of transformerClip
EPS = 1e-12  # of the layer norms in transformerClip, frame2t_attention and actionClip


def differences(frames: Tensor) -> Tensor:
    """[B, L-1, D]: each frame less the one before it."""
    return frames[:, 1:] - frames[:, :-1]


def squash(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """2 sigmoid(norm(x)) - 1: each entry between -1 and 1 (reference 8)."""
    squashed: Tensor = 2 * torch.sigmoid(norm(x)) - 1
    return squashed


def attention_differences(
    frames: Tensor, mask: Tensor, positions: Tensor, attention: Transformer, norm: nn.LayerNorm
) -> Tensor:
    """Difference tokens [B, L-1, D] that have seen one another; `positions` is [>= L, D] (reference 8)."""
    d = differences(frames)  # [B, L-1, D]
    if d.shape[1] == 0:
        return d
    d = d + positions[1 : frames.shape[1]]  # d_i stands at i + 1
    return squash(attention(d, mask[:, 1:]), norm)  # [B, L-1, D]


def interleave(frames: Tensor, mask: Tensor, d: Tensor, positions: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens x_0 d_0 x_1 … x_{L-1}, [B, 2L-1, D], and their mask [B, 2L-1] (reference 9).

    d_i has the position and mask of x_i. So the difference to the first padding frame is seen: reference
    quirk 2, kept.
    """
    B, L, D = frames.shape
    tokens = frames.new_empty(B, 2 * L - 1, D)  # [B, 2L-1, D]
    tokens[:, 0::2] = frames + positions[:L] + types[1]
    tokens[:, 1::2] = d + positions[: L - 1] + types[0]
    token_mask = mask.repeat_interleave(2, dim=1)[:, : 2 * L - 1]  # [B, 2L-1]
    return tokens, token_mask


def pool(frames: Tensor, mask: Tensor) -> Tensor:
    """Unit vectors [B, D], float32: real frames normalised, averaged, normalised (reference 10)."""
    unit = F.normalize(frames.float(), dim=-1)  # [B, L, D]
    real = mask.unsqueeze(-1).float()  # [B, L, 1]
    return F.normalize((unit * real).sum(1) / real.sum(1), dim=-1)  # [B, D]
