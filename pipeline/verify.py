"""A whole store read and held to its digests; what fails is named, and on request deleted: a run makes it anew."""

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from clip2video_pipe.manifests.checks import check_manifest
from clip2video_pipe.manifests.manifest import NAME, ROOT
from clip2video_pipe.manifests.shards import SUFFIX, check_shard, checked, shard_stamps
from clip2video_pipe.manifests.store import Damaged, Stamp, Store, StoreError
from clip2video_pipe.pipeline.contents import MEMORIES, is_of_run, listings, manifests, run_names, runs, stage_keys
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.events import ALIVE, RUNS
from clip2video_pipe.pipeline.live import refuse_while_live

THREADS = min(8, 2 * (os.cpu_count() or 1))

Parts = tuple[str, ...]
Progress = Callable[[int, int], None]  # bytes that were read, of all


class Fault(NamedTuple):
    """A file that is not as it was written, or cannot be read at all: then there is nothing to repair."""

    what: str  # shard, manifest, memory or run
    parts: Parts
    why: str
    seen: Stamp | None = None  # as it was when it was read
    readable: bool = True


def verify(store: Store, *, repair: bool, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Read everything in a store. Gives how much that was, and `faults`: `what`, `path`, `why`, `repaired` of each.

    Holds a row group for each thread, and the items of one manifest. With `repair` bad files are deleted, and
    manifests that count on them, so that what is left is sound; unless a run has begun meanwhile, which `refused`
    then says. Raises RequestError: no store, or a run is going.
    """
    if not (Path(store.path()).is_dir() if store.local else store.folders()):
        raise RequestError(f"verify: there is no store at {store.path()!r}; 'run' makes one")
    if repair:
        refuse_while_live(store, "verify --repair")
    shards = [(*at, name, s.size) for at in stage_keys(store) for name, s in shard_stamps(store, *at).items()]
    everything, read = sum(size for *_, size in shards), 0
    faults: list[Fault] = []
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for (*_, size), fault in zip(shards, pool.map(partial(_shard, store), shards), strict=True):
                read += size
                progress(read, everything)
                faults += fault
            bad = {fault.parts[-1].removesuffix(SUFFIX) for fault in faults if fault.readable}
            listed = list(manifests(store))
            for stage, name in listed:
                faults += _manifest(store, stage, name, bad, pool.map)
            others = list(_others(store))
            for found in pool.map(partial(_file, store), others):
                faults += found
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    refused = None
    if repair and faults:
        try:
            refuse_while_live(store, "verify --repair: nothing was deleted")  # reading may have taken hours
        except RequestError as error:
            refused = str(error)
    repaired = [repair and not refused and _drop(store, fault) for fault in faults]
    return {
        "store": store.path(),
        "shards": len(shards),
        "manifests": len(listed),
        "other_files": len(others),
        "bytes": everything,
        "refused": refused,
        "faults": [
            {"what": fault.what, "path": store.path(*fault.parts), "why": fault.why, "repaired": done}
            for fault, done in zip(faults, repaired, strict=True)
        ],
    }


def _shard(store: Store, at: tuple[str, str, str, int]) -> list[Fault]:
    stage, key, name, _ = at
    parts = (stage, key, name + SUFFIX)
    found = _checked("shard", parts, lambda: check_shard(store, stage, key, name))
    if found and store.stamp(*parts) is None:
        return []  # a run that keeps no frames took it away meanwhile
    return found


def _manifest(
    store: Store, stage: str, name: str, bad: Collection[str], mapped: Callable[..., Iterable[Any]]
) -> list[Fault]:
    parts = (ROOT, stage, name, NAME)
    if store.stamp(*parts) is None:
        return []  # of a run that was killed before it was written
    return _checked("manifest", parts, lambda: check_manifest(store, stage, name, bad, mapped))


def _others(store: Store) -> Iterator[tuple[str, Parts]]:
    """Tables and JSON files of runs, and what the store remembers of files."""
    yield from (("memory", (name,)) for name in MEMORIES if store.stamp(name))
    for folder in listings(store):
        yield from (("memory", (*folder, file)) for file in sorted(store.stamps(*folder)) if file.endswith(SUFFIX))
    for name in run_names(store):
        for stamp in runs(store, name):
            files = (file for file in sorted(store.stamps(RUNS, name, stamp)) if is_of_run(file) and file != ALIVE)
            yield from (("run", (RUNS, name, stamp, file)) for file in files if file.endswith((".json", SUFFIX)))


def _file(store: Store, at: tuple[str, Parts]) -> list[Fault]:
    what, parts = at

    def read() -> None:
        seen = None
        try:
            source, seen = store.opened(*parts)
            with source:
                if parts[-1].endswith(SUFFIX):
                    file = pq.ParquetFile(source, page_checksum_verification=True)
                    for _ in checked(file):
                        pass
                else:
                    json.loads(source.read())
        except FileNotFoundError:
            return
        except (pa.ArrowException, LookupError, TypeError, ValueError, OverflowError) as error:
            raise Damaged(store, *parts, why=_line(error), seen=seen) from error
        except OSError as error:
            if error.errno is not None or type(error) is not OSError:
                raise
            raise Damaged(store, *parts, why=_line(error), seen=seen) from error

    return _checked(what, parts, read)


def _checked(what: str, parts: Parts, check: Callable[[], None]) -> list[Fault]:
    try:
        check()
    except Damaged as error:
        return [Fault(what, parts, error.why, error.seen)]
    except (StoreError, OSError) as error:
        return [Fault(what, parts, _line(error), readable=False)]
    return []


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _drop(store: Store, fault: Fault) -> bool:
    """Delete it, if it was not made anew since, and unless nothing but its being read is what fails."""
    if fault.readable and fault.seen:
        store.remove(*fault.parts, seen=fault.seen)
    return fault.readable
