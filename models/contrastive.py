"""The loss that training makes small: a video and its own caption score above all other pairs (reference, Training)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(videos: Tensor, captions: Tensor, scale: Tensor, center_weight: float, width: int) -> Tensor:
    """`w CE(S_global) + (1 - w) CE(S_aligned)`, CE the mean of both directions' cross entropies over the batch.

    `videos` and `captions` are [B, E], row b of both one pair: global vectors of `width` D, and behind them, for models
    with an alignment block, the aligned ones (E = 2 D). Without it the loss is CE(S_global). `scale` is
    exp(logit_scale), which cosines are multiplied by.
    """
    loss = _cross_entropy(scale * videos[:, :width] @ captions[:, :width].T)
    if videos.shape[1] == width:
        return loss
    aligned = _cross_entropy(scale * videos[:, width:] @ captions[:, width:].T)
    return center_weight * loss + (1 - center_weight) * aligned


def _cross_entropy(scores: Tensor) -> Tensor:
    """Of a square matrix whose diagonal is right: the mean over rows and that over columns."""
    right = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2
