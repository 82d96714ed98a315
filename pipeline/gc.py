"""What a store holds that given configs do not need, and its removal."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from clip2video_pipe.manifests.manifest import NAME, ROOT, load
from clip2video_pipe.manifests.schemas import FAILED
from clip2video_pipe.manifests.shards import SUFFIX, shard_stamps
from clip2video_pipe.manifests.store import Stamp, Store
from clip2video_pipe.pipeline.contents import (
    MEMORIES,
    SCORING,
    STAGES,
    is_items,
    is_of_run,
    listings,
    manifests,
    run_names,
    runs,
    stage_keys,
)
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.events import RUNS
from clip2video_pipe.pipeline.live import refuse_while_live
from clip2video_pipe.pipeline.plan import Plan, Step
from clip2video_pipe.pipeline.status import live_runs

MANIFESTS, LEFTOVERS = "manifests", "leftovers"
BATCH = 64  # files that are deleted between two looks at whether a run has begun

Parts = tuple[str, ...]


class File(NamedTuple):
    """A file of ours in the store; `what`: the stage of a shard, or `manifests`, `leftovers`, `runs`."""

    what: str
    parts: Parts
    stamp: Stamp
    wanted: bool


@dataclass
class Needs:
    """What has to stay."""

    manifests: set[tuple[str, str]] = field(default_factory=set)  # stage, hash
    shards: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))  # by stage, key
    stages: set[str] = field(default_factory=set)  # all of them, as it cannot be told which is needed


@dataclass(frozen=True)
class Limits:
    """What stays whatever the configs say."""

    younger: float  # seconds
    runs: int | None  # so many of the newest of each config; None: all


def collect(plans: Sequence[Plan], limits: Limits, *, delete: bool, allow_gaps: bool = False) -> dict[str, Any]:
    """Find, and with `delete` remove, what none of the configs needs; the plans are made with `again=False`.

    Gives `store`, `deleted`, `notes`, and `rows`: of each kind of file `what`, `files`, `bytes` (to go, or gone),
    `kept_files` and `kept_bytes`. Raises RequestError: several stores, a run is going or begins before all is deleted,
    or configs whose videos or results are not there, so that it cannot be told what they need.
    """
    store = plans[0].store
    for plan in plans[1:]:
        if plan.store.identity != store.identity:
            raise RequestError(
                f"gc: {plans[0].config.name!r} has its store at {store.path()!r}, {plan.config.name!r} at "
                f"{plan.store.path()!r}; collect one store at a time"
            )
    notes = [note for plan in plans for note in _doubts(plan, allow_gaps)]
    if delete:
        refuse_while_live(store, "gc --delete")
        if notes:
            raise RequestError(f"gc: {notes[0]}")
    for run in live_runs(store):
        notes.append(f"a run is going: {store.path(*run.parts)}; --delete refuses until it has ended")
    needs = Needs()
    for plan in plans:
        notes += _need(plan, needs)
    names = {plan.config.name for plan in plans}
    files = [*_manifests(store, needs, limits), *_shards(store, needs, limits), *_others(store, names, limits)]
    if delete:
        _delete(store, [file for file in files if not file.wanted])
    return {
        "store": store.path(),
        "deleted": delete,
        "notes": notes,
        "rows": [_row(what, files) for what in (*STAGES, MANIFESTS, LEFTOVERS, RUNS)],
    }


def _doubts(plan: Plan, allow_gaps: bool) -> Iterator[str]:
    """Why what a config asks for now may not be what its results are of."""
    name, listed = plan.config.name, plan.listing.videos
    failed = listed["status"].to_pylist().count(FAILED)
    if failed and not allow_gaps:
        yield (
            f"{failed} of {len(listed)} videos of {name!r} cannot be read now, and what was made of them would go; "
            "bring them back, or --allow-gaps where they never were there"
        )
    embeddings = plan.video_embeddings
    if embeddings.items and len(embeddings.missing) == len(embeddings.items):
        yield f"nothing of {name!r} is in {plan.store.path()!r}: {embeddings.why()}; 'run' it first, or leave it out"


def _need(plan: Plan, needs: Needs) -> Iterator[str]:
    """Add what a plan asks for; gives notes."""
    steps = list(plan.steps)
    if plan.captions and plan.embedded:
        steps += plan.scoring()
    elif plan.captions:
        needs.stages.update(SCORING)
        yield f"{plan.config.name!r} is not embedded to the end: which scores it needs is not known, and all are kept"
    for step in steps:
        needs.manifests.add((step.name, step.hash))
        needs.shards[step.name, step.identity.key] |= _asked(step)


def _asked(step: Step) -> set[str]:
    """Shards that a step's manifest names, or those with items that it asks for: of a run that did not finish."""
    if step.manifest:
        return set(step.manifest.shards)
    if step.known.unread:
        return set(shard_stamps(step.store, step.name, step.identity.key))
    items = set(step.items)
    named = load(step.store, step.name, step.hash)
    found = {shard for shard, held in step.places.by_shard() if not items.isdisjoint(held)}
    return found | (set(named.shards) if named else set())


def _shards(store: Store, needs: Needs, limits: Limits) -> Iterator[File]:
    for stage, key in stage_keys(store):
        ages, wanted = store.ages(stage, key), needs.shards[stage, key]
        for name, stamp in shard_stamps(store, stage, key).items():
            file = name + SUFFIX
            stays = name in wanted or stage in needs.stages or ages.get(file, 0.0) < limits.younger
            yield File(stage, (stage, key, file), stamp, stays)
        yield from _leftovers(store, (stage, key), limits)


def _manifests(store: Store, needs: Needs, limits: Limits) -> Iterator[File]:
    """Of a young one that nobody asks for the shards stay as well."""
    for stage, name in manifests(store):
        folder = (ROOT, stage, name)
        files = {file: stamp for file, stamp in store.stamps(*folder).items() if file == NAME or is_items(file)}
        ages = store.ages(*folder)
        found = load(store, stage, name)
        young = any(ages.get(file, 0.0) < limits.younger for file in files)
        asked = (stage, name) in needs.manifests or stage in needs.stages
        if found and (asked or young):
            needs.shards[stage, found.key] |= set(found.shards)
        for file in sorted(files, key=lambda file: file != NAME):  # without it the others do not count
            superseded = file != NAME and (found is not None or NAME not in files)
            superseded = superseded and (found is None or file != found.info["items"])
            stays = young or (asked and not superseded)
            yield File(MANIFESTS, (*folder, file), files[file], stays)
        yield from _leftovers(store, folder, limits)


def _others(store: Store, names: set[str], limits: Limits) -> Iterator[File]:
    """Run folders, and what killed writers left there and at the top."""
    for name in run_names(store):
        stamps = runs(store, name)
        old = set(stamps[: -limits.runs]) if limits.runs and name in names else set()
        for stamp in stamps:
            folder = (RUNS, name, stamp)
            files, ages = store.stamps(*folder), store.ages(*folder)
            young = any(age < limits.younger for age in ages.values())
            for file in filter(is_of_run, files):
                yield File(RUNS, (*folder, file), files[file], young or stamp not in old)
            yield from _leftovers(store, folder, limits)
    for listing in listings(store):
        yield from _leftovers(store, listing, limits)
    ages = store.ages()
    for file, said in store.leftovers().items():
        if file.startswith(tuple(f".{memory}." for memory in MEMORIES)):
            yield File(LEFTOVERS, (file,), said, ages.get(file, 0.0) < limits.younger)


def _leftovers(store: Store, folder: Parts, limits: Limits) -> Iterator[File]:
    found = store.leftovers(*folder)
    ages = store.ages(*folder) if found else {}
    for file, stamp in found.items():
        yield File(LEFTOVERS, (*folder, file), stamp, ages.get(file, 0.0) < limits.younger)


def _delete(store: Store, files: Sequence[File]) -> None:
    """Manifests first, so that none names what is gone; then folders that are empty.

    A run may begin meanwhile, and use what was to go: then the rest stays. So does what was written again since.
    """
    for start in range(0, len(files), BATCH):
        refuse_while_live(store, f"gc --delete: {start} of {len(files)} files are deleted")
        for file in files[start : start + BATCH]:
            store.remove(*file.parts, seen=file.stamp)
    folders = {file.parts[:-1] for file in files if len(file.parts) > 1}
    folders |= {*stage_keys(store), *((ROOT, *at) for at in manifests(store))}
    for folder in sorted(folders):
        store.remove_folder(*folder)
    for folder in {folder[:-1] for folder in folders}:
        store.remove_folder(*folder)


def _row(what: str, files: Sequence[File]) -> dict[str, Any]:
    kept = [file.stamp.size for file in files if file.what == what and file.wanted]
    gone = [file.stamp.size for file in files if file.what == what and not file.wanted]
    sizes = {"kept_files": len(kept), "kept_bytes": sum(kept)}
    return {"what": what, "files": len(gone), "bytes": sum(gone), **sizes}
