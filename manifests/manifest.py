"""Manifests: which item lies in which row of which shard. A stage is done when its manifest is there."""

import hashlib
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clip2video_pipe.manifests import keys
from clip2video_pipe.manifests.faults import point
from clip2video_pipe.manifests.places import Places, Written
from clip2video_pipe.manifests.schemas import FAILED, MANIFEST_ITEMS, OK
from clip2video_pipe.manifests.shards import SUFFIX, check_shard, read_rows, read_shard, shard_stamps, versions
from clip2video_pipe.manifests.store import Damaged, Stamp, Store, StoreError

ROOT = "manifests"
NAME = "manifest.json"
TABLE_ROWS = 1 << 16
SUSPECT_BYTES = 1 << 30  # of a stage's shards that were changed since they were written: so many are read by a plan
READERS = 16  # that open shards at a time
TERSE = ("status", "error", "message", "shard")  # columns that say the same again and again


@dataclass(frozen=True)
class StageIdentity:
    """What a stage's key is made of, so that two of them can be compared and the difference named."""

    stage: str
    version: int
    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    weights: str | None = None

    @cached_property
    def key(self) -> str:
        return keys.stage_key(self.stage, self.version, self.params, self.inputs, self.weights)


@dataclass(frozen=True)
class Manifest:
    """A committed manifest; `info` is what its `manifest.json` says, `places` is read when first asked for."""

    store: Store
    stage: str
    hash: str
    info: Mapping[str, Any]

    @property
    def key(self) -> str:
        return str(self.info["key"])

    @property
    def counts(self) -> Mapping[str, Any]:
        """`asked`, `ok`, `failed`, `passing` of those, and `errors`: how many failed of each class."""
        counts: Mapping[str, Any] = self.info["counts"]
        return counts

    @cached_property
    def shards(self) -> dict[str, Written]:
        """The shards that its items lie in, as they were when it was written."""
        said = self.info["shards"]
        return {n: Written(s["rows"], Stamp(s["bytes"], s["modified"], s["tag"])) for n, s in said.items()}

    @property
    def items(self) -> pa.Table:
        """MANIFEST_ITEMS rows in the order they were asked for. Raises Damaged."""
        return self.rows_of_items().cast(MANIFEST_ITEMS)

    def rows_of_items(self) -> pa.Table:
        """As `items`, their shards as a dictionary: a million are read in a quarter of the time. Raises Damaged."""
        data = self.store.read(ROOT, self.stage, self.hash, str(self.info["items"]))
        if data is None or _items_name(data) != self.info["items"]:
            parts, why = (ROOT, self.stage, self.hash, NAME), "its table of items is gone or damaged"
            raise Damaged(self.store, *parts, why=why, seen=self.store.stamp(*parts))
        return pq.ParquetFile(pa.BufferReader(data), read_dictionary=["shard"]).read()

    @cached_property
    def places(self) -> Places:
        """The place of each item."""
        return Places.of(self.rows_of_items(), self.shards)

    def rows(self, columns: list[str] | None = None, chunk: int = 4096) -> Iterator[pa.Table]:
        """The stage's rows in the order asked for, in tables of `chunk` rows."""
        items = self.items.select(["shard", "row"])
        batches = (items.slice(start, chunk) for start in range(0, items.num_rows, chunk))
        places = (place for b in batches for place in zip(*(c.to_pylist() for c in b.columns), strict=True))
        return read_rows(self.store, self.stage, self.key, places, columns=columns, chunk=chunk)

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """All rows at once, for stages whose rows are small. A manifest has at least one."""
        return pa.concat_tables(self.rows(columns, chunk=TABLE_ROWS))

    def changed(self) -> int:
        """How many of its shards do not lie in the store as they were when it was written."""
        stamps = shard_stamps(self.store, self.stage, self.key)
        return sum(stamps.get(name) != said.stamp for name, said in self.shards.items())

    @property
    def passing(self) -> int:
        """How many of its items failed for a reason of the moment."""
        return int(self.counts["passing"])

    def failed(self, classes: Collection[str]) -> int:
        """How many of its items failed with one of these classes; FAILED stands for all of them."""
        errors = self.counts["errors"]
        return sum(count for error, count in errors.items() if FAILED in classes or error in classes)


def load(store: Store, stage: str, manifest_hash: str) -> Manifest | None:
    """The manifest of this hash; None where it is not there, or not as it was written."""
    info = store.read_json(ROOT, stage, manifest_hash, NAME)
    if not isinstance(info, dict) or info.pop("digest", None) != keys.digest(info):
        return None
    manifest = Manifest(store, stage, manifest_hash, info)
    if store.stamp(ROOT, stage, manifest_hash, info["items"]) != Stamp(*info["items_stamp"]):
        try:
            manifest.rows_of_items()  # it checks itself: it was changed, or copied
        except Damaged:
            return None
    return manifest


def commit(
    store: Store, identity: StageIdentity, items: Sequence[str], places: Places, its_hash: str | None = None
) -> Manifest:
    """Write the manifest of `items`; `manifest.json` comes last and makes it count. `places` is all that is known.

    `its_hash` is that of these items, where it is known: of a million it takes a while.

    Its table of items is named by its digest, so that of two runs that commit at a time neither gets the other's.
    Raises StoreError, and writes nothing, when the counts do not add up: an item without a row or asked for twice;
    Damaged for a shard that is not in the store as it was written.
    """
    if len(set(items)) != len(items):
        raise StoreError(f"stage {identity.stage}: the same item was asked for twice")
    try:
        table = places.table(items)
    except KeyError as error:
        count = len(places.missing(items))
        raise StoreError(f"stage {identity.stage}: {count} of {len(items)} items have no row, first {error}") from error
    stamps = shard_stamps(store, identity.stage, identity.key)
    shards = {name: places.shards[name] for name in sorted(pc.unique(table["shard"]).to_pylist())}
    for name, written in shards.items():
        if stamps.get(name) != written.stamp:
            why = "it has gone or changed since it was written"
            raise Damaged(store, identity.stage, identity.key, name + SUFFIX, why=why)
    folder = (ROOT, identity.stage, its_hash or keys.manifest_hash(identity.key, items))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, use_dictionary=list(TERSE))
    data = sink.getvalue().to_pybytes()
    name = _items_name(data)
    point(f"commit {identity.stage}")
    store.write(data, *folder, name)
    failed = table.filter(pc.not_equal(table["status"], OK))
    errors = Counter(failed["error"].to_pylist())
    info = {
        "stage": identity.stage,
        "version": identity.version,
        "key": identity.key,
        "params": dict(identity.params),
        "inputs": dict(identity.inputs),
        "weights": identity.weights,
        "counts": {
            "asked": len(items),
            "ok": len(items) - errors.total(),
            "failed": errors.total(),
            "passing": pc.sum(failed["passing"].cast(pa.int64())).as_py() or 0,
            "errors": dict(sorted(errors.items(), key=str)),
        },
        "items": name,
        "items_stamp": store.stamp(*folder, name),
        "shards": {
            name: {"bytes": said.stamp.size, "modified": said.stamp.modified, "tag": said.stamp.tag, "rows": said.rows}
            for name, said in shards.items()
        },
        "versions": versions(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    store.write_json({**info, "digest": keys.digest(info)}, *folder, NAME, indent=None)
    return Manifest(store, identity.stage, folder[-1], info)


class Known(NamedTuple):
    """What is known of a stage key."""

    places: Places
    damaged: dict[str, Stamp]  # shards that are there and cannot be used
    unread: int  # shards that changed since they were written, and are too much to read


def known(
    store: Store,
    stage: str,
    key: str,
    retry: Collection[str] = (),
    *,
    again: bool = True,
    tried: Collection[str] = (),
) -> Known:
    """Every item that lies in a whole shard of this stage key, whoever asked for it and whether they finished or not.

    Items whose failure was of one of the classes to `retry` count as not there, and with `again` those whose failure
    was of the moment; but for the items that were `tried` just now.

    Manifests answer for shards that are as they were when the manifest was written. One that was changed since is read
    in full, up to SUSPECT_BYTES in all: a store that was copied has new times everywhere. Of the others (of
    runs that were killed) the items are read.
    """
    stamps = shard_stamps(store, stage, key)
    found = Places()
    answered: set[str] = set()
    suspects: set[str] = set()
    # The largest first: it mostly answers for the shards of all the others.
    for manifest in sorted(_manifests(store, stage, key), key=lambda m: -int(m.counts["asked"])):
        shards = {n: said for n, said in manifest.shards.items() if n not in answered and n in stamps}
        fresh = {name: said for name, said in shards.items() if stamps[name] == said.stamp}
        suspects |= shards.keys() - fresh.keys()
        if not fresh:
            continue
        try:
            items = manifest.rows_of_items()
        except Damaged:
            continue  # its shards are opened below
        # A manifest may have asked for part of a shard; only of one it asked for whole is nothing more to learn.
        asked = pc.value_counts(items["shard"].unify_dictionaries().combine_chunks())
        counts = zip(asked.field("values").to_pylist(), asked.field("counts").to_pylist(), strict=True)
        whole = {name: fresh[name] for name, rows in counts if name in fresh and fresh[name].rows == rows}
        if len(whole) < len(asked):
            items = items.filter(pc.is_in(items["shard"].cast(pa.string()), pa.array(whole, pa.string())))
        found.merge(items, whole)
        answered |= whole.keys()
    unsound, unread = _unsound(store, stage, key, sorted(suspects - answered), stamps)
    others = sorted(stamps.keys() - answered - set(unsound))
    with ThreadPoolExecutor(READERS) as pool:
        opened = zip(others, pool.map(lambda name: read_shard(store, stage, key, name), others), strict=True)
        tables = {name: table for name, table in opened if table is not None}
    unsound += [name for name in others if name not in tables]
    if tables:
        _merge_all(found, tables, stamps)
    found.without(lambda said: (again and said.passing) or _is_of(said.error, retry), tried)
    return Known(found, {name: stamps[name] for name in unsound}, unread)


def _is_of(error: str | None, classes: Collection[str]) -> bool:
    return error is not None and (FAILED in classes or error in classes)


def _unsound(
    store: Store, stage: str, key: str, names: Sequence[str], stamps: Mapping[str, Stamp]
) -> tuple[list[str], int]:
    """Those of these shards that are damaged, and how many were not read because it would take too long."""
    read, unread, bad = 0, 0, []
    for name in names:
        read += stamps[name].size
        if read > SUSPECT_BYTES:
            unread += 1
            continue
        try:
            check_shard(store, stage, key, name)
        except Damaged:
            bad.append(name)
    return bad, unread


def _merge_all(found: Places, tables: Mapping[str, pa.Table], stamps: Mapping[str, Stamp]) -> None:
    """The rows of single shards, as many at a time as have no item twice."""
    part: list[pa.Table] = []
    seen: set[str] = set()
    for table in tables.values():
        items = set(table["item"].to_pylist())
        if seen & items:
            found.merge(pa.concat_tables(part), {})
            part, seen = [], set()
        part.append(table)
        seen |= items
    found.merge(pa.concat_tables(part), {name: Written(len(table), stamps[name]) for name, table in tables.items()})


def _items_name(data: bytes) -> str:
    return f"items-{hashlib.sha256(data).hexdigest()[: keys.KEY_LENGTH]}.parquet"


def failure_classes(store: Store) -> set[str]:
    """The classes of failures that the manifests of a store have."""
    manifests = (manifest for stage in store.folders(ROOT) for manifest in _manifests(store, stage))
    return {str(error) for manifest in manifests for error in manifest.counts["errors"]}


def latest(store: Store, stage: str, exclude: str) -> Manifest | None:
    """The manifest of a stage that was written last, but for those of stage key `exclude`."""
    found = [m for m in _manifests(store, stage) if m.key != exclude]
    return max(found, key=lambda m: str(m.info.get("written", "")), default=None)


def _manifests(store: Store, stage: str, key: str | None = None) -> list[Manifest]:
    loaded = (load(store, stage, name) for name in store.folders(ROOT, stage))
    return [m for m in loaded if m is not None and key in (None, m.key)]
