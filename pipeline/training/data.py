"""The pairs of an epoch: which video comes when, with which of its captions, and its pictures out of the shards."""

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from clip2video_pipe.manifests.shards import read_rows
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.stages.pictures import pixels_of

Positions = npt.NDArray[np.int64]
Pictures = npt.NDArray[np.uint8]
Thing = TypeVar("Thing")

ORDER, CAPTION, JITTER = range(3)  # what a draw is for


@dataclass(frozen=True)
class Sample:
    """A video: its content, where its pictures lie, and its captions, cleaned.

    `group`: of those that lay in one shard when the training began, which is what the order of epochs is drawn by.
    """

    item: str
    shard: str
    row: int
    captions: tuple[str, ...]
    group: int = 0


@dataclass(frozen=True)
class Epochs:
    """The batches of each epoch: every video once, with one of its captions; all of it follows from `seed`.

    `window` is how many groups are read at a time: within that many the order is drawn freely, so that a corpus which
    does not fit into memory is read once an epoch all the same.
    """

    samples: Sequence[Sample]
    batch: int
    workers: int
    seed: int
    window: int  # at most as many as there are

    def __len__(self) -> int:
        """Batches of an epoch: full ones and the rest, which joins the last where it leaves a worker nothing to tell
        apart: fewer than two videos each."""
        full, rest = divmod(len(self.samples), self.batch)
        return max(1, full + (rest >= 2 * self.workers))

    def batches(self, epoch: int) -> list[Positions]:
        """Positions in `samples`."""
        order = self._order(self._draw(epoch, ORDER))
        bounds = [*range(self.batch, len(self) * self.batch, self.batch)]
        return np.split(order, bounds)

    def captions(self, epoch: int) -> Positions:
        """Which of its captions each sample comes with."""
        counts = np.array([len(sample.captions) for sample in self.samples])
        drawn: Positions = (self._draw(epoch, CAPTION).random(len(counts)) * counts).astype(np.int64)
        return drawn

    def jitter(self, epoch: int, position: int) -> np.random.Generator:
        """What a sample's frames of this epoch are drawn by."""
        return self._draw(epoch, JITTER, position)

    @cached_property
    def _groups(self) -> list[Positions]:
        found: dict[int, list[int]] = {}
        for position, sample in enumerate(self.samples):
            found.setdefault(sample.group, []).append(position)
        return [np.array(found[group]) for group in sorted(found)]

    def _order(self, random: np.random.Generator) -> Positions:
        groups = random.permutation(len(self._groups)).tolist()
        windows = (groups[start : start + self.window] for start in range(0, len(groups), self.window))
        return np.concatenate([random.permutation(np.concatenate([self._groups[n] for n in some])) for some in windows])

    def _draw(self, epoch: int, *what: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, *what])


def share(batch: Positions, worker: int, workers: int) -> tuple[Positions, list[int]]:
    """What of a batch a worker has, and how many each has: as even as can be."""
    parts = np.array_split(batch, workers)
    return parts[worker], [len(part) for part in parts]


class Reader:
    """Pictures of samples out of the shards of the frames stage; the shards read last are kept, so many of them."""

    def __init__(self, store: Store, stage: str, key: str, rows: dict[str, int], size: int, keep: int) -> None:
        self._store, self._stage, self._key = store, stage, key
        self._rows, self._size, self._keep = rows, size, keep
        self._kept: OrderedDict[str, tuple[Pictures, Positions]] = OrderedDict()

    def pictures(self, sample: Sample) -> Pictures:
        """uint8 [n, S, S, 3]. Raises Damaged where the shard has gone or is not as it was written."""
        pictures, bounds = self._shard(sample.shard)
        return pictures[bounds[sample.row] : bounds[sample.row + 1]]

    def _shard(self, name: str) -> tuple[Pictures, Positions]:
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        count = self._rows[name]
        places = ((name, row) for row in range(count))
        [table] = read_rows(self._store, self._stage, self._key, places, columns=["pictures"], chunk=count)
        column = table["pictures"].combine_chunks()
        pixels, counts = pixels_of(column.drop_null(), self._size)
        lengths = np.zeros(count, np.int64)
        lengths[column.is_valid().to_numpy(zero_copy_only=False)] = counts
        while len(self._kept) >= self._keep:
            self._kept.popitem(last=False)
        self._kept[name] = pixels, np.concatenate([[0], np.cumsum(lengths)])
        return self._kept[name]


def window_of(shard_bytes: Iterable[int], budget: int) -> int:
    """How many shards of these sizes in memory fit into so many bytes; 1 at least."""
    return max(1, math.floor(budget / max([1, *shard_bytes])))


def ahead(things: Iterator[Thing]) -> Iterator[Thing]:
    """The same things, the next one made while the last is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: list(islice(things, 1)))
        while found := waiting.result():
            waiting = pool.submit(lambda: list(islice(things, 1)))
            yield found[0]
