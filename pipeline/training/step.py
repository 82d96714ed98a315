"""The gradient of one batch: over several workers, and in parts where the batch is too large for a device."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clip2video_pipe.models.clip2video import Clip2Video
from clip2video_pipe.models.contrastive import contrastive_loss


class Part(NamedTuple):
    """Pairs of a video and a caption: arguments of `embed_videos` and `embed_captions`."""

    pictures: Tensor  # uint8 [N, S, S, 3]; or float [n, L, D], CLIP's vectors, where the image tower does not learn
    counts: Sequence[int]  # [n]
    ids: Tensor  # int64 [n, W]
    mask: Tensor  # bool [n, W]


class Towers(nn.Module):
    """Pairs in, vectors out: what the workers' copies compute, so that their gradients can be averaged."""

    def __init__(self, model: Clip2Video, max_frames: int) -> None:
        super().__init__()
        self.model = model
        self.max_frames = max_frames

    def forward(self, part: Part) -> tuple[Tensor, Tensor, Tensor]:
        """Videos [n, E] and captions [n, E], global and aligned side by side, and the scale []."""
        if part.pictures.is_floating_point():
            places = torch.arange(self.max_frames, device=part.pictures.device)
            real = places < torch.tensor(list(part.counts), device=part.pictures.device)[:, None]  # [n, L]
            videos = self.model.video_vectors(part.pictures, real)
        else:
            videos = self.model.embed_videos(part.pictures, part.counts, self.max_frames)
        captions = self.model.embed_captions(part.ids, part.mask)
        return _side_by_side(videos), _side_by_side(captions), self.model.clip.logit_scale.exp()


@dataclass
class Objective:
    """The loss of this worker's pairs: against all workers' (`everywhere`), or against its own alone."""

    center_weight: float
    width: int  # D
    everywhere: bool = True

    def __call__(self, videos: Tensor, captions: Tensor, scale: Tensor, sizes: Sequence[int]) -> tuple[Tensor, float]:
        """What to go back from, and the loss. `sizes`: pairs of each worker.

        Gradients are averaged over the workers afterwards, so what is gone back from is `workers` times this one's part
        of the batch's loss. Each has the whole of the loss where all pairs are gathered: vectors of others are numbers
        there, and its own carry the gradient. The scale's would be counted once a worker, so it carries a share.
        """
        workers = len(sizes)
        if workers == 1:
            loss = contrastive_loss(videos, captions, scale, self.center_weight, self.width)
            return loss, loss.item()
        if not self.everywhere:
            loss = contrastive_loss(videos, captions, scale, self.center_weight, self.width)
            loss = loss * (workers * len(videos) / sum(sizes))
            return loss, _mean_over_workers(loss)
        shared = scale.detach() + (scale - scale.detach()) / workers
        loss = contrastive_loss(
            _gather(videos, sizes), _gather(captions, sizes), shared, self.center_weight, self.width
        )
        return workers * loss, loss.item()


def go_back(
    towers: Towers | DistributedDataParallel,
    parts: Sequence[Part],
    objective: Objective,
    sizes: Sequence[int],
    scaler: torch.amp.GradScaler,
    *,
    whole: bool,
) -> float:
    """Add the batch's gradient to the parameters', and give the loss. `parts` are this worker's pairs.

    `whole`: whether each worker has its pairs in one part; the same for all, or they would wait for one another.

    The loss needs all pairs at once, the towers do not (cached gradients: Gao et al. 2021, arXiv 2101.06983, sec. 3.2).
    First all vectors are computed, without a graph; then the loss and its gradient with respect to them; then each part
    again, with its graph, and back from what it has of that gradient. A batch that is whole goes the plain way.
    """
    if whole:
        videos, captions, scale = towers(parts[0])
        away, loss = objective(videos, captions, scale, sizes)
        scaler.scale(away).backward()  # type: ignore[no-untyped-call]
        return loss
    plain = towers.module if isinstance(towers, DistributedDataParallel) else towers
    with torch.no_grad():
        vectors = [plain(part) for part in parts]
    videos, captions = (torch.cat([found[n] for found in vectors]).requires_grad_() for n in (0, 1))
    scale = vectors[0][2].clone().requires_grad_()
    away, loss = objective(videos, captions, scale, sizes)
    scaler.scale(away).backward()  # type: ignore[no-untyped-call]
    start = 0
    for number, part in enumerate(parts):
        some = slice(start, start + len(part.counts))
        start = some.stop
        last = number == len(parts) - 1
        alone = isinstance(towers, DistributedDataParallel) and not last  # gradients are averaged after the last
        with towers.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
            video, caption, own = towers(part)
            (video * _gradient(videos)[some]).sum().add((caption * _gradient(captions)[some]).sum()).add(
                own * _gradient(scale) if last else 0 * own  # every parameter takes part in each
            ).backward()
    return loss


def _gradient(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def _side_by_side(vectors: tuple[Tensor, Tensor | None]) -> Tensor:
    return torch.cat([v for v in vectors if v is not None], dim=1)


def _gather(own: Tensor, sizes: Sequence[int]) -> Tensor:
    """[sum of sizes, E]: the rows of all workers; the gradient flows into this one's."""
    padded = own.new_zeros(max(sizes), own.shape[1])
    padded[: len(own)] = own.detach()
    found = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(found, padded)
    rows = [some[:size] for some, size in zip(found, sizes, strict=True)]
    rows[dist.get_rank()] = own
    return torch.cat(rows)


def _mean_over_workers(value: Tensor) -> float:
    total = value.detach().clone()
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()
