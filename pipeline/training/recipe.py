"""Which weights learn, how fast, and when: CLIP4Clip's recipe (reference, Training)."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from clip2video_pipe.models.clip2video import Clip2Video
from clip2video_pipe.pipeline.errors import RequestError

BETAS = (0.9, 0.98)
EPS = 1e-6
MOST_SCALE = math.log(100)  # of logit_scale

# What `train.freeze` may name: the beginnings of the names of parameters.
PARTS: dict[str, tuple[str, ...]] = {
    "embeddings": (
        "clip.token_embedding.",
        "clip.positional_embedding",
        "clip.visual.class_embedding",
        "clip.visual.positional_embedding",
        "clip.visual.conv1.",
        "clip.visual.ln_pre.",
    ),
    "image": ("clip.visual.",),
    "text": (
        "clip.token_embedding.",
        "clip.positional_embedding",
        "clip.transformer.",
        "clip.ln_final.",
        "clip.text_projection",
    ),
    "scale": ("clip.logit_scale",),
}


def freeze(model: Clip2Video, parts: Iterable[str]) -> None:
    """From now on these parts, names in PARTS, do not learn."""
    frozen = tuple(prefix for part in parts for prefix in PARTS[part])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen) if frozen else True)


def make_optimizer(model: Clip2Video, lr: float, clip_lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Adam over what learns, in groups: CLIP's parameters at `clip_lr`, the others at `lr`.

    Weight decay is decoupled, and holds for matrices alone: biases, norms and the scale have none.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("clip."), parameter.ndim >= 2), []).append(parameter)
    said = [
        {"params": group, "lr": clip_lr if of_clip else lr, "weight_decay": weight_decay if decays else 0.0}
        for (of_clip, decays), group in groups.items()
    ]
    if not said:
        raise RequestError("train.freeze: leaves nothing that learns; name fewer parts")
    return torch.optim.AdamW(said, betas=BETAS, eps=EPS)


def schedule(optimizer: torch.optim.Optimizer, steps: int, warm_up: float) -> torch.optim.lr_scheduler.LambdaLR:
    """The rate at each of `steps`: it rises over the share `warm_up`, in a line, then falls as a cosine to 0."""
    rising = max(1, round(steps * warm_up))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def bound_scale(model: Clip2Video) -> None:
    """Hold logit_scale to at most ln 100."""
    with torch.no_grad():
        model.clip.logit_scale.clamp_(max=MOST_SCALE)
