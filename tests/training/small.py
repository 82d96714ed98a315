"""A small model and pairs that cost little; run by itself, one worker of several that computes their gradient.

`python small.py RANK WORKERS FOLDER NEGATIVES PARTS` writes `FOLDER/RANK.pt`.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from clip2video_pipe.models.presets import ClipSize, Variant
from clip2video_pipe.models.starting import starting_model
from clip2video_pipe.pipeline.training.step import Objective, Part, Towers, go_back

SIZE = ClipSize(16, 8, 64, 1, 64, 12, 600, 64, 1, 1)
FRAMES = 3
PAIRS = 7  # of a batch: it does not divide by two


def new_model(variant=Variant()):  # noqa: B008 - it is frozen
    return starting_model(SIZE, variant, clip=None, checkpoint=None, seed=3)


def pairs(count=PAIRS, seed=0):
    """So many pairs, some of their videos shorter than others."""
    draw = torch.Generator().manual_seed(seed)
    counts = [FRAMES - n % 2 for n in range(count)]
    pictures = torch.randint(0, 256, (sum(counts), 16, 16, 3), generator=draw, dtype=torch.uint8)
    ids = torch.randint(1, 500, (count, 8), generator=draw)
    ids[:, 0], ids[:, -1] = SIZE.vocab_size - 2, SIZE.vocab_size - 1
    return Part(pictures, counts, ids, torch.ones(count, 8, dtype=torch.bool))


def cut(part, sizes):
    """The same pairs in parts."""
    found, start = [], 0
    for size in sizes:
        first = sum(part.counts[:start])
        counts = part.counts[start : start + size]
        rows = slice(start, start + size)
        found.append(Part(part.pictures[first : first + sum(counts)], counts, part.ids[rows], part.mask[rows]))
        start += size
    return found


def gradient(towers, parts, sizes, everywhere=True):
    """Loss, and gradients by name, of a batch."""
    plain = towers.module if isinstance(towers, DistributedDataParallel) else towers
    objective = Objective(0.4, SIZE.embed_dim, everywhere)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    loss = go_back(towers, parts, objective, sizes, scaler, whole=len(parts) == 1)
    return loss, {name: p.grad for name, p in plain.model.named_parameters() if p.grad is not None}


def main(rank, workers, folder, negatives, parts):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=workers)
    torch.manual_seed(rank)  # whatever a worker begins with, the first one's weights are everybody's
    towers = DistributedDataParallel(Towers(new_model().train(), FRAMES))
    sizes = [4, 3]
    mine = cut(pairs(), sizes)[rank]
    some = cut(mine, [2, len(mine.counts) - 2]) if parts == 2 else [mine]
    torch.save(gradient(towers, some, sizes, negatives == "global"), folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
