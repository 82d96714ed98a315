"""Batches that fit: as many items at a time as the device has shown to have room for."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Result = TypeVar("Result")


class Batches:
    """Calls a function on consecutive ranges of at most `size` items; where memory runs out, on half as many.

    A size that was too large is remembered: later calls begin with what fitted.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, count: int, compute: Callable[[int, int], Result]) -> list[Result]:
        """Results of `compute(start, stop)` over 0 to `count`. Raises torch's error where one item is too many."""
        import torch

        results: list[Result] = []
        start = 0
        while start < count:
            stop = min(count, start + self.size)
            try:
                results.append(compute(start, stop))
            except torch.OutOfMemoryError:
                if stop - start == 1:
                    raise
                self.size = (stop - start) // 2
            else:
                start = stop
        return results


def by_length(lengths: Sequence[int], step: int, budget: int) -> list[npt.NDArray[np.intp]]:
    """Indices in groups whose lengths round up to the same multiple of `step`: at most `budget` in all, in a group.

    An item that is longer than the budget is a group of its own.
    """
    rounded = -(-np.asarray(lengths, dtype=np.intp) // step) * step
    groups = []
    for length in np.unique(rounded):
        same = np.flatnonzero(rounded == length)
        size = max(1, budget // max(1, int(length)))
        groups += [same[start : start + size] for start in range(0, len(same), size)]
    return groups
