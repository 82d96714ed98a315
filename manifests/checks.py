"""Whether a manifest says what is in the store: for who wants to be sure, and not only to go on."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clip2video_pipe.manifests import keys
from clip2video_pipe.manifests.manifest import NAME, ROOT, Manifest, load
from clip2video_pipe.manifests.schemas import ITEM_COLUMNS, MANIFEST_ITEMS, OK
from clip2video_pipe.manifests.shards import read_shard, shard_stamps
from clip2video_pipe.manifests.store import Damaged, Store

# Calls a function for each of some arguments, in threads.
Mapped = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


def check_manifest(store: Store, stage: str, manifest_hash: str, bad: Collection[str], mapped: Mapped) -> None:
    """Hold a manifest to its digests, its own counts, and to each row that it names. Raises Damaged.

    `bad`: shards of its stage that are known to be damaged. Holds its items, and a shard's for each thread.
    """
    parts = (ROOT, stage, manifest_hash, NAME)
    seen = store.stamp(*parts)

    def wrong(why: str) -> Damaged:
        return Damaged(store, *parts, why=why, seen=seen)

    found = load(store, stage, manifest_hash)
    if found is None:
        raise wrong("it is not as it was written, or its table of items is gone")
    items = found.items
    if not items.schema.equals(MANIFEST_ITEMS):
        raise wrong("its table of items has other columns than it should")
    if keys.manifest_hash(found.key, items["item"].to_pylist()) != manifest_hash:
        raise wrong("its items are others than its hash says")
    if why := _miscounted(found, items):
        raise wrong(why)
    there = shard_stamps(store, stage, found.key)
    for name, said in found.shards.items():
        if name not in there:
            raise wrong(f"its shard {name} is gone")
        if name in bad:
            raise wrong(f"its shard {name} is damaged")
        if there[name].size != said.stamp.size:
            raise wrong(f"its shard {name} has {there[name].size} bytes, and had {said.stamp.size}")

    def against(part: tuple[str, pa.Table]) -> str | None:
        return _differs(read_shard(store, stage, found.key, part[0]), *part)

    for problem in mapped(against, _by_shard(items)):
        if problem:
            raise wrong(problem)


def _miscounted(found: Manifest, items: pa.Table) -> str | None:
    errors = Counter(items.filter(pc.not_equal(items["status"], OK))["error"].to_pylist())
    counts = {"asked": len(items), "ok": len(items) - errors.total(), "failed": errors.total(), "errors": dict(errors)}
    counts["passing"] = pc.sum(items["passing"].cast(pa.int64())).as_py() or 0
    if found.counts != counts:
        return "its counts are not those of its items"
    if set(found.shards) != set(pc.unique(items["shard"]).to_pylist()):
        return "its items lie in other shards than it names"
    return None


def _by_shard(items: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Each shard, and the items that should be in it."""
    items = items.sort_by([("shard", "ascending"), ("row", "ascending")])
    runs = pc.run_end_encode(items["shard"].combine_chunks())
    start = 0
    for name, stop in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        yield name, items.slice(start, stop - start)
        start = stop


def _differs(shard: pa.Table | None, name: str, items: pa.Table) -> str | None:
    """What a shard says otherwise than a manifest does of its items."""
    if shard is None:
        return f"its shard {name} is damaged"
    if pc.max(items["row"]).as_py() >= len(shard) or pc.min(items["row"]).as_py() < 0:
        return f"its shard {name} has {len(shard)} rows, and it names others"
    rows = shard.take(items["row"])
    for column in ITEM_COLUMNS:
        ours, theirs = (table[column].combine_chunks() for table in (items, rows))
        if column == "passing":
            ours, theirs = ours.fill_null(False), theirs.fill_null(False)
        if not ours.equals(theirs):
            return f"its shard {name} has another {column} in some row"
    return None
