"""An index of a config's video vectors beside its store: built, brought up to date, and looked up in.

A folder `indexes/<config>-<stage key>.<kind>` of the store; its `index.json` says what of it counts, and comes last.
What does not count any more stays until the next `index`: somebody may be looking into it.
"""

import math
import shutil
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clip2video_pipe.manifests.manifest import Manifest
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.alone import alone
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.indexes.base import Block, Blocks, Index, Kind, Nothing, Shape, parts
from clip2video_pipe.pipeline.indexes.kinds import KINDS, kind_of
from clip2video_pipe.stages.vectors import Floats, Positions, joined_width, vector_blocks, vectors_at

ROOT, NAME = "indexes", "index.json"
VERSION = 2
SAID = {"version", "stage_key", "center_weight", "built_of", "vectors", "folder", "state", "shards"}
LEARN = 64  # vectors a part to learn the parts from
OUTGROWN = 4  # times the vectors that it was built of
ASKED, BEST, CANDIDATES = 100, 10, 4  # recall@BEST of so many of the vectors, as `search --index` looks


UNREADABLE = (RuntimeError, ValueError, OSError)  # what the libraries raise


class Wanted:
    """What an index has to hold: vectors of rows of video_embeddings, at `places` (`shard` and `row`).

    Of `places` each shard's rows are together, ascending. Raises RequestError for a store that is not on this machine.
    """

    def __init__(self, config: str, manifest: Manifest, places: pa.Table, weight: float) -> None:
        self.manifest, self.places, self.weight = manifest, places, weight
        if not manifest.store.local:
            raise RequestError(
                f"index: the store {manifest.store.path()!r} is not on this machine, and an index has to be; "
                "'export' writes the vectors for one of your own"
            )
        self._folder, self._config = Path(manifest.store.path(ROOT)), config

    @property
    def weights(self) -> tuple[float, float]:
        """Of the global and the aligned part, so that the products of two vectors are the scores."""
        return math.sqrt(self.weight), math.sqrt(1 - self.weight)

    @cached_property
    def runs(self) -> dict[str, slice]:
        """Of each shard its places."""
        found = pc.run_end_encode(self.places["shard"].combine_chunks().cast(pa.string()))
        ends = found.run_ends.to_pylist()
        return {
            name: slice(start, end)
            for name, start, end in zip(found.values.to_pylist(), [0, *ends[:-1]], ends, strict=True)
        }

    @cached_property
    def shards(self) -> dict[str, list[Any]]:
        """Of each shard a checksum of which of its rows are wanted, and its stamp: it may be made anew."""
        rows = self.places["row"].to_numpy().astype("<i8")
        there = self.manifest.shards
        return {name: [zlib.crc32(rows[at].tobytes()), *there[name].stamp] for name, at in self.runs.items()}

    def folder(self, kind: str) -> Path:
        """Where an index of this kind lies."""
        return self._folder / f"{self._config}-{self.manifest.key[:12]}.{kind}"

    def ids(self, order: Iterable[str]) -> Positions:
        """Of each place an id, given the shards in the order in which they came."""
        numbers = {name: number for number, name in enumerate(order)}
        ids: Positions = self.places["row"].to_numpy().astype(np.int64)
        for name, at in self.runs.items():
            ids[at] += numbers[name] << 32
        return ids

    def vectors(self, at: Positions) -> Floats:
        """Of places [n], ascending."""
        return vectors_at(self.manifest, self.places.take(pa.array(at)), self.weights)

    def blocks(self, at: Positions) -> Iterator[tuple[Positions, Floats]]:
        """The same a block at a time, each with its places; none that is not finite."""
        if not len(at):
            return
        for where, vectors in vector_blocks(self.manifest, self.places.take(pa.array(at)), 1, self.weights):
            finite = np.isfinite(vectors).all(axis=1)
            yield at[where][finite], np.ascontiguousarray(vectors[finite])


class Opened:
    """An index that holds what is wanted; `path` is where it lies."""

    def __init__(self, wanted: Wanted, index: Index, order: Iterable[str], path: Path) -> None:
        self._index, self._path = index, path
        ids = wanted.ids(order)
        self._order = np.argsort(ids)
        self._ids = ids[self._order]

    def candidates(self, queries: Floats, count: int) -> list[Positions]:
        """Of each query [n, width] about the `count` places with the largest products, ascending.

        Raises RequestError where it is damaged.
        """
        try:
            return [self._some(query, count) for query in queries]
        except UNREADABLE as error:
            raise _unreadable(self._path) from error

    def _some(self, query: Floats, count: int) -> Positions:
        ids = self._index.candidates(query, count)
        if len(ids) < min(count, len(self._ids)):  # the parts that were looked into held fewer
            ids = self._index.candidates(query, len(self._ids))
        return np.sort(self._order[np.searchsorted(self._ids, ids)])


def opened(wanted: Wanted) -> Opened:
    """The first index, in the order of KINDS, that holds what is wanted. Raises RequestError where there is none."""
    found = [(kind, said) for kind in KINDS if (said := _read(wanted.folder(kind)))]
    if not found:
        raise RequestError("search: --index: there is no index of these vectors; 'index' makes one")
    reasons: list[RequestError] = []
    for kind, said in found:
        if _same(wanted, said) and said["shards"] == wanted.shards:
            try:
                return _open(wanted, kind_of(kind), wanted.folder(kind), said)
            except RequestError as error:  # another kind may do
                reasons.append(error)
    if reasons:
        raise reasons[0]
    kinds = " and ".join(f"--kind {kind}" for kind, _ in found)
    raise RequestError(
        f"search: --index: the index is not of the last run's vectors and this model.center_weight; "
        f"'index' with {kinds} brings it up to date"
    )


def update(wanted: Wanted, name: str) -> dict[str, Any]:
    """Bring an index up to date: new shards are added; it is built anew where others have gone or it is outgrown.

    Gives `path`, `kind`, `built` (or added to), `added` and `vectors` (how many), `seconds`, `bytes`, and `recall`: of
    ASKED of the vectors the part of the BEST others nearest to them that `search --index` would look at. Raises
    RequestError where the library is not installed or another process is at it, Damaged.
    """
    kind, folder = kind_of(name), wanted.folder(name)
    lock = folder.with_name(f".{folder.name}.lock")
    with alone(lock, f"index: another process is making {str(folder)!r}; wait until it is done"):
        start = time.perf_counter()
        said = _read(folder)
        _tidy(folder, kind, said)
        if said and not (_extends(wanted, said) and _sound(wanted, kind, folder, said)):
            said = None
        before = said["vectors"] if said else 0
        made = _added(wanted, kind, folder, said) if said else _built(wanted, kind, folder, name)
        taken = time.perf_counter() - start
        recall = _recall(wanted, _open(wanted, kind, folder, made))
    return {
        "path": str(folder),
        "kind": name,
        "built": said is None,
        "added": made["vectors"] - before,
        "vectors": made["vectors"],
        "seconds": taken,
        "bytes": sum(file.stat().st_size for file in (folder / made["folder"]).rglob("*") if file.is_file()),
        "recall": recall,
    }


def _read(folder: Path) -> dict[str, Any] | None:
    """What a whole index says of itself; None where there is none, or one of another version."""
    found = Store(str(folder)).read_json(NAME)
    return found if isinstance(found, dict) and found.keys() >= SAID and found["version"] == VERSION else None


def _open(wanted: Wanted, kind: Kind, folder: Path, said: dict[str, Any]) -> Opened:
    """Raises RequestError where it is damaged."""
    try:
        index = _index(kind, folder, said)
    except UNREADABLE as error:
        raise _unreadable(folder) from error
    return Opened(wanted, index, said["shards"], folder)


def _index(kind: Kind, folder: Path, said: dict[str, Any]) -> Index:
    """Raises UNREADABLE."""
    return kind.open(folder / said["folder"], said["state"], said["vectors"]) if said["vectors"] else Nothing()


def _unreadable(folder: Path) -> RequestError:
    return RequestError(f"search: --index: {str(folder)!r} cannot be read; 'index' makes it anew")


def _sound(wanted: Wanted, kind: Kind, folder: Path, said: dict[str, Any]) -> bool:
    """Whether it can be looked up in."""
    try:
        _index(kind, folder, said).candidates(wanted.vectors(np.arange(1))[0], 1)
    except UNREADABLE:
        return False
    return True


def _tidy(folder: Path, kind: Kind, said: dict[str, Any] | None) -> None:
    """Remove what does not count: of an index that was made anew, or of one who was killed."""
    kept = said["folder"] if said else None
    for path in folder.glob("[!.]*/"):
        if path.name != kept:
            shutil.rmtree(path, ignore_errors=True)
    if said:
        kind.tidy(folder / said["folder"], said["state"])


def _same(wanted: Wanted, said: dict[str, Any]) -> bool:
    return bool(said["stage_key"] == wanted.manifest.key and said["center_weight"] == wanted.weight)


def _extends(wanted: Wanted, said: dict[str, Any]) -> bool:
    kept = all(wanted.shards.get(name) == rows for name, rows in said["shards"].items())
    return kept and _same(wanted, said) and len(wanted.places) <= OUTGROWN * said["built_of"]


def _built(wanted: Wanted, kind: Kind, folder: Path, name: str) -> dict[str, Any]:
    data = folder / uuid.uuid4().hex
    data.mkdir(parents=True)
    count = len(wanted.places)

    def sample() -> Floats:
        vectors = wanted.vectors(_some(count, LEARN * parts(count)))
        return vectors[np.isfinite(vectors).all(axis=1)]

    blocks = _Counted(wanted, np.arange(count), wanted.shards)
    try:
        state = kind.build(data, iter(blocks), Shape(count, joined_width(wanted.manifest), sample))
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        raise
    said = {
        "version": VERSION,
        "stage_key": wanted.manifest.key,
        "center_weight": wanted.weight,
        "kind": name,
        "built_of": count,
        "vectors": blocks.count,
        "folder": data.name,
        "state": state,
        "shards": wanted.shards,
    }
    Store(str(folder)).write_json(said, NAME)
    return said


def _added(wanted: Wanted, kind: Kind, folder: Path, said: dict[str, Any]) -> dict[str, Any]:
    new = [name for name in wanted.shards if name not in said["shards"]]
    if not new:
        return said
    order = said["shards"] | {name: wanted.shards[name] for name in new}
    places = [np.arange(len(wanted.places))[wanted.runs[name]] for name in new]
    blocks = _Counted(wanted, np.concatenate(places), order)
    state = kind.add(folder / said["folder"], said["state"], iter(blocks))
    said = {**said, "vectors": said["vectors"] + blocks.count, "state": state, "shards": order}
    Store(str(folder)).write_json(said, NAME)
    return said


class _Counted:
    """Blocks of the vectors at places, and how many of them there were."""

    def __init__(self, wanted: Wanted, at: Positions, order: Iterable[str]) -> None:
        self._wanted, self._at, self._ids = wanted, at, wanted.ids(order)
        self.count = 0

    def __iter__(self) -> Blocks:
        for at, vectors in self._wanted.blocks(self._at):
            self.count += len(at)
            yield Block(self._ids[at], vectors)


def _some(count: int, most: int) -> Positions:
    """Positions of up to `most` of so many, ascending."""
    return np.sort(np.random.default_rng(0).choice(count, min(count, most), replace=False))


def _recall(wanted: Wanted, index: Opened) -> float | None:
    """None where there is nothing beside a vector itself to be found."""
    asked = _some(len(wanted.places), ASKED)
    vectors = wanted.vectors(asked)
    finite = np.isfinite(vectors).all(axis=1)
    asked, queries = asked[finite], vectors[finite]
    best, scores = np.empty((len(asked), 0), np.int64), np.empty((len(asked), 0), np.float32)
    for at, block in wanted.blocks(np.arange(len(wanted.places))):
        products = queries @ block.T
        products[asked[:, None] == at] = -np.inf  # itself
        scores = np.concatenate([scores, products], axis=1)
        best = np.concatenate([best, np.broadcast_to(at, products.shape)], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :BEST]
        scores, best = np.take_along_axis(scores, order, 1), np.take_along_axis(best, order, 1)
    found = index.candidates(queries, CANDIDATES * BEST)
    others = [(row[np.isfinite(said)], at) for row, said, at in zip(best, scores, found, strict=True)]
    shares = [float(np.isin(row, at).mean()) for row, at in others if len(row)]
    return sum(shares) / len(shares) if shares else None
