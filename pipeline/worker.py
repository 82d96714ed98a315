"""What a worker does with one unit of work: read rows, let the stage process them, write a shard."""

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from clip2video_pipe.manifests.shards import Shard, ShardWriter, read_rows
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.stages.base import Stage

Turn = Callable[[float], contextlib.AbstractContextManager[Any]]


class Feed(Protocol):
    """Where a unit's rows come from: it travels to the worker, so it is small."""

    def tables(self, store: Store, chunk: int) -> Iterator[pa.Table]:
        """The unit's rows, `chunk` at a time."""


@dataclass(frozen=True)
class Given:
    """Rows that come with the unit. Neighbours that are equal in the column `together` come in one table."""

    table: pa.Table
    together: str | None = None

    def tables(self, store: Store, chunk: int) -> Iterator[pa.Table]:
        rows = self.table.num_rows
        if self.together:
            values = self.table[self.together].to_pylist()
            bounds = _cuts([n for n in range(1, rows) if values[n] != values[n - 1]], rows, chunk)
        else:
            bounds = [*range(0, rows, chunk), rows]
        for start, stop in itertools.pairwise(bounds):
            yield self.table.slice(start, stop - start)


def _cuts(allowed: Sequence[int], rows: int, chunk: int) -> list[int]:
    """Row numbers to cut at, 0 and `rows` included: only at `allowed` ones, as few as parts of `chunk` rows need."""
    bounds = [0]
    for cut, following in itertools.pairwise([*allowed, rows]):
        if following - bounds[-1] > chunk:
            bounds.append(cut)
    return [*bounds, rows] if rows else []


@dataclass(frozen=True)
class Stored:
    """Rows that lie in shards of an earlier stage."""

    stage: str
    key: str
    places: Sequence[tuple[str, int]]  # shard and row of each item

    def tables(self, store: Store, chunk: int) -> Iterator[pa.Table]:
        return read_rows(store, self.stage, self.key, self.places, chunk=chunk)


@dataclass(frozen=True)
class Done:
    """A finished unit; times are the worker's, in seconds since the epoch."""

    shard: Shard
    began: float
    ended: float
    busy: float = 0.0  # seconds in `process`
    cpu: float = 0.0  # core-seconds of that
    node: str = ""  # the host that did it
    device: str = "cpu"  # or gpu
    shared: bool = False  # another run on the store did it


def run_unit(
    store: Store,
    stage: Stage,
    items: Sequence[str],
    feed: Feed,
    turn: Turn = contextlib.nullcontext,
) -> Done:
    """Compute one shard. `turn` is held while the stage computes, and not while rows are read or written.

    It is told for how many seconds at most the stage ought to compute.

    Raises StoreError when the store is at fault; what is wrong with an item is a failed row instead.
    """
    began, busy, cpu = time.time(), 0.0, 0.0
    with ShardWriter(store, stage.name, stage.identity.key, items, stage.schema) as writer:
        for table in feed.tables(store, stage.chunk):
            loaded = stage.load(table)
            with turn(stage.patience(table.num_rows)):
                start, before = time.perf_counter(), stage.cpu_seconds()
                rows = stage.process(loaded)
                busy += time.perf_counter() - start
                cpu += stage.cpu_seconds() - before
            for first in range(0, rows.num_rows, stage.chunk):
                writer.write(rows.slice(first, stage.chunk))
    return Done(writer.shard, began, time.time(), busy, cpu, socket.gethostname(), stage.device_kind)
