"""Ranks from vectors, a tile of the similarity matrix at a time: memory does not grow with the matrix."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from clip2video_pipe.stages.vectors import BEYOND, Floats, Positions, Vectors

if TYPE_CHECKING:
    from torch import Tensor

HEIGHT = BEYOND  # gallery vectors in one product
QUERIES = 512  # queries in one product
KEPT = 8  # tiles that are kept when they were needed early, and not computed again

Counts = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]
Adjust = Callable[["Tensor", int], "Tensor"]  # scores [queries, groups] and their first group to other scores


def product(a: "Tensor", b: "Tensor") -> "Tensor":
    """float32 [n, m]: dot products of the rows of a [n, D] and b [m, D]."""
    return a @ b.T


class Tile(NamedTuple):
    """Scores of some queries over some groups of the gallery."""

    first: int  # group
    groups: "Tensor"  # float32 [queries, groups]
    members: "Tensor | None"  # float32 [members, queries]; None where each group has one member
    starts: Positions  # of the groups among these members


@dataclass(frozen=True, eq=False)
class Gallery:
    """What queries are ranked over: group g is the vectors from `starts[g]` to `starts[g + 1]`, and none is empty.

    A query's score for a group is its maximum over the members, as papers do for several captions (reference 19).
    Every product has one shape, so that equal vectors get equal scores wherever they come.
    """

    vectors: Vectors
    starts: Positions  # int64 [groups + 1]
    height: int = HEIGHT

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def is_single(self) -> bool:
        """Whether each group has one member."""
        return self.vectors.count == len(self)

    @cached_property
    def bounds(self) -> Positions:
        """int64 [tiles + 1]: the first group of each tile: whole groups of `height` members, or one larger."""
        bounds = [0]
        while bounds[-1] < len(self):
            end = int(np.searchsorted(self.starts, self.starts[bounds[-1]] + self.height, side="right")) - 1
            bounds.append(max(end, bounds[-1] + 1))
        return np.array(bounds, dtype=np.int64)

    @cached_property
    def largest(self) -> int:
        """Members of the largest tile."""
        return int(np.diff(self.starts[self.bounds]).max(initial=1))

    def tile(self, number: int, queries: "Tensor") -> Tile:
        """Scores of queries float32 [n, D] over the groups of a tile."""
        import torch

        first, last = self.bounds[number], self.bounds[number + 1]
        starts = self.starts[first : last + 1]
        if self.is_single:
            block = self._block(int(starts[0]))
            return Tile(int(first), product(queries, block)[:, : last - first], None, starts[:-1] - starts[0])
        pieces = [
            product(self._block(start), queries)[: int(starts[-1]) - start]
            for start in range(int(starts[0]), int(starts[-1]), self.height)
        ]
        members = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        inner = starts[:-1] - starts[0]
        return Tile(int(first), torch.from_numpy(_group_maximum(members.numpy(), inner)).T.contiguous(), members, inner)

    def _block(self, start: int) -> "Tensor":
        """Always as many vectors: those after the tile's last one are for nothing, but of the same shape."""
        import torch

        return torch.from_numpy(self.vectors.read(start, start + min(self.height, -(-self.vectors.count // 64) * 64)))


def _group_maximum(members: Floats, starts: Positions) -> Floats:
    """float32 [groups, queries] of [members, queries]; numpy does this in one thread, so each gets its columns."""
    import torch

    best = np.empty((len(starts), members.shape[1]), np.float32)
    parts = np.array_split(np.arange(members.shape[1]), torch.get_num_threads())

    def one(columns: Positions) -> None:
        some = slice(columns[0], columns[-1] + 1)
        np.maximum.reduceat(members[:, some], starts, axis=0, out=best[:, some])

    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(one, (part for part in parts if len(part))))
    return best


class Ranked(NamedTuple):
    """Where each query's own group stands among all groups, and which are the best."""

    score: npt.NDArray[np.floating]  # [queries]: of the own group
    better: Counts  # [queries]: how many other groups score higher
    equal: Counts  # [queries]: how many other groups score the same
    pool_better: Counts  # the same among members: those of other groups, against the own group's best
    pool_equal: Counts
    top: Positions  # [queries, min(k, groups)]: the best groups, best first, ties by group
    top_scores: npt.NDArray[np.floating]
    finite: Bools  # [queries]: whether all of its scores are finite numbers


def rank(
    queries: Floats,
    own: Positions,
    gallery: Gallery,
    k: int,
    *,
    adjust: Adjust | None = None,
    keep: Callable[[slice, int, Floats], None] | None = None,
    rows: int = QUERIES,
) -> Ranked:
    """Rank queries [n, D] over a gallery; `own[q]` is the group that query q belongs to.

    `adjust` gives the scores that count, `rows` is how many queries are multiplied at a time, and `keep` is called with
    each piece of the matrix: the queries it is of, its first group, and float32 [queries, groups].
    """
    import torch

    parts = []
    for start in range(0, len(queries), rows):
        some = slice(start, min(start + rows, len(queries)))
        block = queries[some]
        if len(block) < rows:  # one shape for all products
            block = np.concatenate([block, np.zeros((rows - len(block), queries.shape[1]), np.float32)])
        ranking = _Block(torch.from_numpy(np.ascontiguousarray(block)), own[some], gallery, k, adjust)
        parts.append(ranking.run(None if keep is None else partial(keep, some)))
    if not parts:
        width = min(k, len(gallery))
        none, few = np.empty(0, np.int32), np.empty(0, np.float32)
        return Ranked(
            few, none, none, none, none, np.empty((0, width), np.int64), np.empty((0, width)), np.empty(0, bool)
        )
    return Ranked(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class _Block:
    """Queries that are multiplied together, on their way over the gallery's tiles."""

    def __init__(self, queries: "Tensor", own: Positions, gallery: Gallery, k: int, adjust: Adjust | None) -> None:
        self._queries = queries
        self._count = len(own)
        self._own = own
        self._gallery = gallery
        self._k = min(k, len(gallery))
        self._adjust = adjust
        self._tile_of_own = np.searchsorted(gallery.bounds, own, side="right") - 1
        self._kept: dict[int, Tile] = {}

    def _tile(self, number: int) -> Tile:
        if number in self._kept:
            return self._kept[number]
        tile = self._gallery.tile(number, self._queries)
        members = None if tile.members is None else tile.members[:, : self._count]
        return tile._replace(groups=tile.groups[: self._count], members=members)

    def _scores(self, tile: Tile) -> "Tensor":
        return tile.groups if self._adjust is None else self._adjust(tile.groups, tile.first)

    def run(self, keep: Callable[[int, Floats], None] | None) -> Ranked:
        import torch

        own = self._own_scores()
        better = torch.zeros(self._count, dtype=torch.int32)
        equal, pool_better, pool_equal = better - 1, better.clone(), -self._own_members_equal(own)
        finite = torch.ones(self._count, dtype=torch.bool)
        best = _Best(self._count, self._k)
        for number in range(len(self._gallery.bounds) - 1):
            tile = self._tile(number)
            scores = self._scores(tile)
            better += (scores > own[:, None]).sum(1, dtype=torch.int32)
            equal += (scores == own[:, None]).sum(1, dtype=torch.int32)
            if tile.members is not None and self._adjust is None:
                pool_better += (tile.members > own).sum(0, dtype=torch.int32)
                pool_equal += (tile.members == own).sum(0, dtype=torch.int32)
            finite &= scores.sum(1).isfinite()
            best.add(scores, tile.first)
            if keep:
                keep(tile.first, tile.groups.numpy())
        if self._gallery.is_single:
            pool_better, pool_equal = better, equal
        return Ranked(
            own.numpy(),
            better.numpy(),
            equal.numpy(),
            pool_better.numpy(),
            pool_equal.numpy(),
            best.groups,
            best.scores,
            finite.numpy(),
        )

    def _own_tiles(self) -> Iterator[tuple[npt.NDArray[np.intp], Tile]]:
        """Each tile that has own groups, and the queries whose groups it has."""
        numbers = np.unique(self._tile_of_own)
        for number in numbers.tolist():
            tile = self._tile(number)
            if len(numbers) <= KEPT:
                self._kept[number] = tile
            yield np.flatnonzero(self._tile_of_own == number), tile

    def _own_scores(self) -> "Tensor":
        """[queries], out of the very products that they will be compared with: rounding can never part the two."""
        import torch

        own: Tensor | None = None
        for queries, tile in self._own_tiles():
            scores = self._scores(tile)
            own = torch.empty(self._count, dtype=scores.dtype) if own is None else own
            own[queries] = scores[queries, self._own[queries] - tile.first]
        assert own is not None, "a block has queries"
        return own

    def _own_members_equal(self, own: "Tensor") -> "Tensor":
        """int32 [queries]: how many of their own group's members have the best one's score."""
        import torch

        found = torch.zeros(self._count, dtype=torch.int32)
        if self._gallery.is_single or self._adjust is not None:
            return found
        for queries, tile in self._own_tiles():
            assert tile.members is not None
            ends = np.append(tile.starts[1:], len(tile.members))
            for query in queries.tolist():
                group = self._own[query] - tile.first
                mine = tile.members[tile.starts[group] : ends[group], query]
                found[query] = int((mine == own[query]).sum())
        return found


class _Best:
    """The best groups so far, best first, ties by group."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self.groups: Positions = np.empty((queries, 0), np.int64)
        self.scores: npt.NDArray[np.floating] = np.empty((queries, 0), np.float32)

    def add(self, scores: "Tensor", first: int) -> None:
        found, columns = top(scores, self._k)
        if not self.groups.shape[1]:
            self.groups, self.scores = columns + first, found
            return
        groups = np.concatenate([self.groups, columns + first], axis=1)
        both = np.concatenate([self.scores, found], axis=1)
        order = np.lexsort((groups, -both), axis=1)[:, : self._k]
        self.groups, self.scores = (np.take_along_axis(array, order, axis=1) for array in (groups, both))


def top(scores: "Tensor", k: int) -> tuple[npt.NDArray[np.floating], Positions]:
    """[queries, min(k, columns)] scores and columns of the best of each row, best first, ties by column."""
    import torch

    k = min(k, scores.shape[1])
    if k == 0:
        return np.empty((len(scores), 0), np.float32), np.empty((len(scores), 0), np.int64)
    more = min(k + 1, scores.shape[1])
    found = torch.topk(scores, more, dim=1)
    values, columns = found.values.numpy(), found.indices.numpy()
    order = np.lexsort((columns, -values), axis=1)
    values, columns = (np.take_along_axis(a, order, axis=1)[:, :k] for a in (values, columns))
    if more > k:
        last = found.values[:, k - 1]
        # Torch takes any of those that share the last place; here it is the first of them.
        for query in torch.nonzero(found.values[:, k] == last).flatten().tolist():
            row = scores[query].numpy()
            candidates = np.flatnonzero(row >= last[query].item())
            columns[query] = candidates[np.argsort(-row[candidates], kind="stable")][:k]
            values[query] = row[columns[query]]
    return values, columns
