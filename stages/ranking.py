"""Ranks from scores: pure functions over blocks of the similarity matrix."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int32]
Columns = npt.NDArray[np.intp]


class Standing(NamedTuple):
    """Where each query's own column stands among all of its row."""

    score: Scores  # [queries]: of the own column
    better: Counts  # [queries]: how many other columns score higher
    equal: Counts  # [queries]: how many other columns score the same


def standing(scores: Scores, own: Columns) -> Standing:
    """Standing of column `own[q]` in row `scores[q]`, for each row of [queries, columns]."""
    mine = scores[np.arange(len(scores)), own]
    better = (scores > mine[:, None]).sum(axis=1, dtype=np.int32)
    equal = (scores == mine[:, None]).sum(axis=1, dtype=np.int32) - 1
    return Standing(mine, better, equal.astype(np.int32))


def group_maximum(scores: Scores, starts: Columns) -> Scores:
    """[queries, groups] from [queries, columns]: the best column of each group, as papers do for several captions.

    Group g is the columns from `starts[g]` to the next group's start; none is empty (reference 19).
    """
    best: Scores = np.maximum.reduceat(scores, starts, axis=1)
    return best


def top(scores: Scores, k: int) -> Columns:
    """[queries, min(k, columns)]: the best columns of each row, best first, ties by column."""
    k = min(k, scores.shape[1])
    if k == 0:
        return np.empty((len(scores), 0), dtype=np.intp)
    worst_kept = np.partition(scores, -k, axis=1)[:, -k]
    found = np.empty((len(scores), k), dtype=np.intp)
    for query, row in enumerate(scores):
        candidates = np.flatnonzero(row >= worst_kept[query])
        found[query] = candidates[np.argsort(-row[candidates], kind="stable")][:k]
    return found
