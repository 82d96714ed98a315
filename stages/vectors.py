"""Many vectors by position: in memory, or in a scratch file where that would take too much."""

import itertools
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clip2video_pipe.manifests.manifest import Manifest
from clip2video_pipe.manifests.shards import read_columns, read_rows, well

Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]

BLOCK = 4096  # rows read from shards at a time
BEYOND = 4096  # rows of zeros that may be read after the last one: the most that a product is filled up with
READERS = 2


class Vectors:
    """float32 [count, width], and zeros beyond. A scratch file has no name, and goes with this object."""

    def __init__(self, count: int, width: int, *, in_memory: bool) -> None:
        self.count = count
        self.width = width
        self._array = np.empty((count + BEYOND, width), np.float32) if in_memory else None
        if self._array is not None:
            self._array[count:] = 0
        self._file = None if in_memory else tempfile.TemporaryFile(prefix="clip2video-pipe-", buffering=0)  # noqa: SIM115

    @classmethod
    def of(cls, rows: Floats) -> "Vectors":
        """These rows, in memory."""
        vectors = cls(len(rows), rows.shape[1], in_memory=True)
        vectors.put(np.arange(len(rows)), rows)
        return vectors

    def put(self, at: Positions, rows: Floats) -> None:
        """Write rows [n, width] to positions [n]."""
        if self._array is not None:
            self._array[at] = rows
        elif self._file is not None:
            size = 4 * self.width
            for place, row in zip(at.tolist(), np.ascontiguousarray(rows), strict=True):
                os.pwrite(self._file.fileno(), row, place * size)

    def read(self, start: int, stop: int) -> Floats:
        """Rows from `start` to `stop`, up to BEYOND after the last one; not to be written to."""
        if self._array is not None:
            return self._array[start:stop]
        assert self._file is not None
        rows = np.zeros((stop - start, self.width), np.float32)
        view, done = rows[: self.count - start].reshape(-1).view(np.uint8).data, 0
        while done < len(view):
            count = os.preadv(self._file.fileno(), [view[done:]], start * 4 * self.width + done)
            if not count:
                raise OSError("the scratch file of vectors is shorter than what was written to it")
            done += count
        return rows

    def take(self, at: Positions) -> Floats:
        """Rows at positions [n], in that order."""
        if self._array is not None:
            return self._array[at]
        rows = np.empty((len(at), self.width), np.float32)
        for n, place in enumerate(at.tolist()):
            rows[n] = self.read(place, place + 1)[0]
        return rows


def joined(table: pa.Table, weights: tuple[float, float] = (1.0, 1.0)) -> Floats:
    """float32 [rows, 2 D] `[a * global, b * aligned]` of rows of video_embeddings or caption_embeddings (reference 15).

    Captions' are times their scale, exp(logit_scale). [rows, D] `global` for models without an alignment block.
    """
    both = _matrices(table)
    scale = table["scale"].to_numpy().astype(np.float32)[:, None] if "scale" in table.column_names else np.float32(1)
    factors = weights if len(both) == 2 else (1.0,)
    return np.concatenate([scale * np.float32(f) * vectors for f, vectors in zip(factors, both, strict=True)], axis=1)


def joined_width(manifest: Manifest) -> int:
    """Of the joined vectors: 0 where no row is well."""
    return sum(matrix.shape[1] for table in first_row(manifest) for matrix in _matrices(table))


def first_row(manifest: Manifest) -> Iterator[pa.Table]:
    """The first row that is well."""
    first = well(manifest.items).slice(0, 1)
    return _rows_at(manifest, first)


def _rows_at(manifest: Manifest, places: pa.Table) -> Iterator[pa.Table]:
    """Rows of a manifest's stage at `places` (`shard` and `row`), BLOCK at a time."""
    pairs = zip(places["shard"].to_pylist(), places["row"].to_pylist(), strict=True)
    return read_rows(manifest.store, manifest.stage, manifest.key, pairs, chunk=BLOCK)


def vectors_at(manifest: Manifest, places: pa.Table, weights: tuple[float, float] = (1.0, 1.0)) -> Floats:
    """Joined vectors [n, width] of rows of a manifest's stage at `places` (`shard` and `row`, at least one)."""
    return np.concatenate([joined(table, weights) for table in _rows_at(manifest, places)])


def _matrices(table: pa.Table) -> list[Floats]:
    """float32 [rows, D] of the global and, where the model has one, the aligned vectors."""
    columns = [table[name].combine_chunks() for name in ("global", "aligned")]
    return [column.flatten().to_numpy().reshape(table.num_rows, -1) for column in columns if not column.null_count]


def read_vectors(
    manifest: Manifest, contents: pa.Array, width: int, join: Callable[[pa.Table], Floats], *, in_memory: bool
) -> Vectors:
    """What `join` makes of the rows of `contents` (item keys, in this order; the same one may come several times).

    Each row is read once, shard after shard; `width` is that of the joined vectors.
    """
    vectors = Vectors(len(contents), width, in_memory=in_memory)
    if not len(contents):
        return vectors
    items = manifest.items
    found = pc.index_in(contents, items["item"].combine_chunks()).to_numpy(zero_copy_only=False).astype(np.int64)
    wanted, member = np.unique(found, return_inverse=True)
    places = items.select(["shard", "row"]).take(pa.array(wanted))
    order = pc.sort_indices(places, [("shard", "ascending"), ("row", "ascending")]).to_numpy()
    turns = np.empty(len(order), np.int64)
    turns[order] = np.arange(len(order))
    turns = turns[member]  # of each position: when its row is read
    positions = np.argsort(turns, kind="stable")
    turns = turns[positions]

    def read(start: int) -> None:
        for table in _rows_at(manifest, places.take(pa.array(order[start : start + BLOCK]))):
            some = slice(*np.searchsorted(turns, [start, start + table.num_rows]))
            vectors.put(positions[some], join(table)[turns[some] - start])

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(read, range(0, len(order), BLOCK)))
    return vectors


def vector_blocks(
    manifest: Manifest, places: pa.Table, ahead: int, weights: tuple[float, float] = (1.0, 1.0)
) -> Iterator[tuple[slice, Floats]]:
    """Joined vectors [n, width] of rows of video_embeddings, with their positions in `places`.

    `places` (`shard` and `row`) has each shard's rows together, ascending. A block is whole shards, as many as have
    BLOCK rows, or a larger one. Up to `ahead` blocks are read before they are asked for, the first of them at once.
    Raises Damaged.
    """
    runs = pc.run_end_encode(places["shard"].combine_chunks().cast(pa.string()))
    names, ends, rows = runs.values.to_pylist(), runs.run_ends.to_numpy(), places["row"].to_numpy()
    bounds = np.insert(ends, 0, 0).tolist()

    def read(first: int, last: int) -> tuple[slice, Floats]:
        tables = []
        for n in range(first, last):
            table = read_columns(manifest.store, manifest.stage, manifest.key, names[n], ["global", "aligned"])
            some = rows[bounds[n] : bounds[n + 1]]
            tables.append(table if len(some) == len(table) else table.take(pa.array(some)))
        return slice(bounds[first], bounds[last]), joined(pa.concat_tables(tables), weights)

    def spans() -> Iterator[tuple[int, int]]:
        first = 0
        while first < len(names):
            last = max(first + 1, int(np.searchsorted(ends, bounds[first] + BLOCK, side="right")))
            yield first, last
            first = last

    left, pool = spans(), ThreadPoolExecutor(1)  # a second one would mostly wait for the interpreter
    waiting = deque(pool.submit(read, *span) for span in itertools.islice(left, max(1, ahead)))

    def blocks() -> Iterator[tuple[slice, Floats]]:
        try:
            while waiting:
                found = waiting.popleft().result()
                waiting.extend(pool.submit(read, *span) for span in itertools.islice(left, 1))
                yield found
        finally:
            pool.shutdown(cancel_futures=True)

    return blocks()
