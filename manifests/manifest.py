"""Manifests: which item lies in which row of which shard. A stage is done when its manifest is there."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clip2video_pipe.manifests import keys
from clip2video_pipe.manifests.schemas import MANIFEST_ITEMS, OK
from clip2video_pipe.manifests.shards import (
    Place,
    outcome_table,
    outcomes_of,
    read_rows,
    read_shard,
    shard_sizes,
    versions,
    with_passing,
)
from clip2video_pipe.manifests.store import Store, StoreError

ROOT = "manifests"
TABLE_ROWS = 1 << 16


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

    @property
    def items(self) -> pa.Table:
        """MANIFEST_ITEMS rows in the order they were asked for."""
        path = self.store.path(ROOT, self.stage, self.hash, "items.parquet")
        try:
            return with_passing(pq.read_table(path, filesystem=self.store.fs, page_checksum_verification=True))
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"manifest {path} cannot be read; delete its folder and run again") from error

    @cached_property
    def places(self) -> dict[str, Place]:
        """Place of each item, in the order they were asked for."""
        table = self.items
        columns = (table[name].to_pylist() for name in ("item", "shard", "row"))
        rows = zip(*columns, outcomes_of(table), strict=True)
        return {item: Place(shard, row, outcome) for item, shard, row, outcome in rows}

    def rows(self, columns: list[str] | None = None, chunk: int = 4096) -> Iterator[pa.Table]:
        """The stage's rows in the order asked for, in tables of `chunk` rows."""
        items = self.items.select(["shard", "row"])
        batches = (items.slice(start, chunk) for start in range(0, items.num_rows, chunk))
        places = (place for b in batches for place in zip(*(c.to_pylist() for c in b.columns), strict=True))
        return read_rows(self.store, self.stage, self.key, places, columns=columns, chunk=chunk)

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """All rows at once, for stages whose rows are small. A manifest has at least one."""
        return pa.concat_tables(self.rows(columns, chunk=TABLE_ROWS))

    def damaged(self) -> int:
        """How many of its shards do not lie in the store in the size that they were written."""
        sizes = shard_sizes(self.store, self.stage, self.key)
        return sum(sizes.get(name) != said["bytes"] for name, said in self.info["shards"].items())

    @property
    def passing(self) -> int:
        """How many of its items failed for a reason of the moment; in one from before that was said, any may have."""
        return int(self.counts.get("passing", self.counts["failed"]))


def load(store: Store, stage: str, manifest_hash: str) -> Manifest | None:
    """The manifest of this hash; None where it is not there, or not all of it."""
    info = store.read_json(ROOT, stage, manifest_hash, "manifest.json")
    if not isinstance(info, dict) or not {"key", "counts", "shards", "params", "inputs"} <= info.keys():
        return None
    return Manifest(store, stage, manifest_hash, info)


def commit(store: Store, identity: StageIdentity, items: Sequence[str], places: Mapping[str, Place]) -> Manifest:
    """Write the manifest of `items`; `manifest.json` comes last and makes it count. `places` is all that is known.

    Raises StoreError, and writes nothing, when the counts do not add up: an item without a row or asked for twice,
    or a shard that is not in the store.
    """
    absent = [item for item in items if item not in places]
    if absent:
        raise StoreError(f"stage {identity.stage}: {len(absent)} of {len(items)} items have no row, first {absent[0]}")
    if len(set(items)) != len(items):
        raise StoreError(f"stage {identity.stage}: the same item was asked for twice")
    found = {item: places[item] for item in items}
    sizes = shard_sizes(store, identity.stage, identity.key)
    shards = {place.shard for place in found.values()}
    if not shards <= sizes.keys():
        raise StoreError(
            f"stage {identity.stage}: shard {min(shards - sizes.keys())} has gone; run again to make it anew"
        )
    rows = Counter(place.shard for place in places.values())
    folder = (ROOT, identity.stage, keys.manifest_hash(identity.key, items))
    table = outcome_table(
        MANIFEST_ITEMS,
        list(items),
        [place.outcome for place in found.values()],
        {"shard": [place.shard for place in found.values()], "row": [place.row for place in found.values()]},
    )
    with store.writing(*folder, "items.parquet") as sink:
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    failed = Counter(p.outcome.error for p in found.values() if p.outcome.status != OK)
    info = {
        "stage": identity.stage,
        "version": identity.version,
        "key": identity.key,
        "params": dict(identity.params),
        "inputs": dict(identity.inputs),
        "weights": identity.weights,
        "counts": {
            "asked": len(items),
            "ok": len(items) - failed.total(),
            "failed": failed.total(),
            "passing": sum(p.outcome.passing for p in found.values()),
            "errors": dict(sorted(failed.items(), key=str)),
        },
        "shards": {name: {"bytes": sizes[name], "rows": rows[name]} for name in sorted(shards)},
        "versions": versions(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    store.write_json(info, *folder, "manifest.json")
    return Manifest(store, identity.stage, folder[-1], info)


def known_places(store: Store, stage: str, key: str) -> dict[str, Place]:
    """Every item that lies in a whole shard of this stage key, whoever asked for it and whether they finished or not.

    Items whose failure was of the moment count as not there.

    Manifests answer for the shards they name; the others (of runs that were killed) are opened. Where an item lies in
    several shards, an `ok` row wins over a failed one, that over one of the moment, then the shard whose name comes
    first.
    """
    sizes = shard_sizes(store, stage, key)
    found: dict[str, Place] = {}
    known: set[str] = set()
    # The largest first: it mostly answers for the shards of all the others.
    for manifest in sorted(_manifests(store, stage, key), key=lambda m: -int(m.counts["asked"])):
        shards = manifest.info["shards"]
        fresh = {n for n, said in shards.items() if n not in known and sizes.get(n) == said["bytes"]}
        if not fresh:
            continue
        try:
            places = manifest.places
        except StoreError:
            continue  # its shards are opened below
        asked = Counter(place.shard for place in places.values())
        # A manifest may have asked for part of a shard; only of one it asked for whole is nothing more to learn.
        whole = {name for name in fresh if asked[name] == shards[name]["rows"]}
        _add(found, {item: place for item, place in places.items() if place.shard in whole})
        known |= whole
    for name in sorted(sizes.keys() - known):
        _add(found, read_shard(store, stage, key, name) or {})
    return {item: place for item, place in found.items() if not place.outcome.passing}


def named_shards(store: Store, stage: str, key: str) -> set[str]:
    """The shards of a stage key that some manifest counts on."""
    return {name for manifest in _manifests(store, stage, key) for name in manifest.info["shards"]}


def latest(store: Store, stage: str, exclude: str) -> Manifest | None:
    """The manifest of a stage that was written last, but for those of stage key `exclude`."""
    found = [m for m in _manifests(store, stage) if m.key != exclude]
    return max(found, key=lambda m: str(m.info.get("written", "")), default=None)


def _manifests(store: Store, stage: str, key: str | None = None) -> list[Manifest]:
    loaded = (load(store, stage, name) for name in store.folders(ROOT, stage))
    return [m for m in loaded if m is not None and key in (None, m.key)]


def _add(found: dict[str, Place], places: Mapping[str, Place]) -> None:
    for item, place in places.items():
        other = found.get(item)
        if other is None or _worth(place) < _worth(other):
            found[item] = place


def _worth(place: Place) -> tuple[bool, bool, str]:
    return place.outcome.status != OK, place.outcome.passing, place.shard
