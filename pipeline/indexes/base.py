"""What each kind of index does with a folder, and sizes that hold for all of them."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from clip2video_pipe.stages.vectors import Floats, Positions

FLAT = 5000  # vectors: to look at fewer of them one by one takes no longer than to look them up
PROBES = 64  # parts that are looked into, of parts(count); or as many as hold what is asked for eight times over


class Block(NamedTuple):
    """Vectors of length 1 to add."""

    ids: Positions  # int64 [n]
    vectors: Floats  # float32 [n, width]


Blocks = Iterator[Block]


@dataclass(frozen=True)
class Shape:
    """What an index is built for."""

    count: int  # vectors
    width: int
    sample: Callable[[], Floats]  # some of the vectors, to learn from


class Index(Protocol):
    """An index that is opened."""

    def candidates(self, query: Floats, count: int) -> Positions:
        """Ids of about the `count` vectors with the largest products with `query` [width], in any order."""


class Nothing:
    """The index of no vectors."""

    def candidates(self, query: Floats, count: int) -> Positions:
        return np.empty(0, np.int64)


class Kind(Protocol):
    """How an index is kept. What it writes counts once the state that it gives, JSON, is written down."""

    def build(self, folder: Path, blocks: Blocks, shape: Shape) -> Any:
        """Write the vectors to an empty folder."""

    def add(self, folder: Path, state: Any, blocks: Blocks) -> Any:
        """Add vectors to what `state` says, which stays readable, whatever else was left there by who was killed."""

    def tidy(self, folder: Path, state: Any) -> None:
        """Remove what this state does not need: that of states before it, and of who was killed."""

    def open(self, folder: Path, state: Any, count: int) -> Index:
        """To look up. Raises whatever the library does where it cannot."""


def parts(count: int) -> int:
    """How many parts so many vectors are put in."""
    return max(1, math.isqrt(count))


def probes(count: int, wanted: int) -> int:
    """How many of them are looked into for so many candidates."""
    return min(parts(count), max(PROBES, math.ceil(8 * wanted * parts(count) / max(1, count))))
