"""One video's way through every stage, read from the store."""

import time
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import pyarrow.compute as pc

from clip2video_pipe.manifests.schemas import FAILED, OK
from clip2video_pipe.manifests.shards import SUFFIX, read_rows
from clip2video_pipe.manifests.store import Damaged, Store
from clip2video_pipe.pipeline.advice import advice
from clip2video_pipe.pipeline.contents import SCORING, run_names, runs
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.events import RUNS, read_events
from clip2video_pipe.pipeline.plan import Plan, Step
from clip2video_pipe.stages.frames import Frames
from clip2video_pipe.stages.metrics import query_ranks
from clip2video_pipe.stages.video_embeddings import VideoEmbeddings

NEAREST = 3
DETAILS = {  # columns that are small
    "frames": ["times", "rate", "decoded", "lost", "width", "height"],
    "video_embeddings": ["frames"],
    "caption_embeddings": ["words"],
}
SCORED = ["direction", "score", "better", "equal", "wrong_id", "wrong_score"]

Entry = dict[str, Any]


def explain(plan: Plan, video_id: str) -> dict[str, Any]:
    """Of a video: its file, an entry a stage, and its captions, each with entries of its own.

    An entry has `stage`, `item`, `status` (`ok`, `failed`, `missing`, `damaged`, `not kept`, `not asked`), `error`,
    `message`, `passing`, `advice` (what would change it), `key`, `shard`, `row`, `path`, `computed` (when its shard
    was made, with what else), what the row says besides, and `rank` where it was scored. Of an id of a file that is
    cut into windows only `windows`, their ids. The plan is made with `again=False`. Raises RequestError.
    """
    at = pc.index(plan.listing.videos["video_id"], video_id).as_py()
    if at < 0:
        ids = plan.listing.videos["video_id"]
        windows = ids.filter(pc.starts_with(ids, f"{video_id}#t=")).to_pylist()
        if not windows:
            raise _unknown(plan, video_id)
        return {"video_id": video_id, "windows": windows}
    [listed] = plan.listing.videos.slice(at, 1).to_pylist()
    scoring = plan.scoring() if plan.embedded else []
    captions = plan.listing.captions.filter(pc.equal(plan.listing.captions["video_id"], video_id)).to_pylist()
    content = listed["video"]
    stages = [_entry(plan, plan.videos, listed["item"], listed)]
    stages += [_entry(plan, step, content) for step in (plan.frames, plan.video_embeddings)]
    if captions:
        stages += _scores(plan, scoring, listed["item"])
    said = [
        {
            "caption_id": row["caption_id"],
            "text": row["text"],
            "stages": [
                *(_entry(plan, step, row["item"], row) for step in [plan.captions] if step),
                *(_entry(plan, step, row["caption"]) for step in [plan.caption_embeddings] if step),
                *_scores(plan, scoring, row["item"]),
            ],
        }
        for row in captions
    ]
    _add_advice(plan, stages)
    for caption in said:
        _add_advice(plan, caption["stages"], stages)
    _add_times(plan, [*stages, *(entry for caption in said for entry in caption["stages"])])
    same = plan.listing.videos.filter(pc.equal(plan.listing.videos["video"], content))["video_id"].to_pylist()
    return {
        "video_id": video_id,
        "store": plan.store.path(),
        "file": str(plan.listing.files[plan.listing.file[at]]),
        **{name: listed[name] for name in ("start", "end", "bytes")},
        "same_content": [other for other in same if other != video_id],
        "stages": stages,
        "captions": said,
    }


def _unknown(plan: Plan, video_id: str) -> RequestError:
    ids = plan.listing.videos["video_id"].to_pylist()
    files = dict.fromkeys(name.partition("#t=")[0] for name in ids)
    near = get_close_matches(video_id, list(dict.fromkeys([*ids, *files])), NEAREST, 0.4)
    hint = f"; the nearest: {', '.join(map(repr, near))}" if near else f"; it has {len(ids)}, such as {ids[0]!r}"
    return RequestError(f"explain: {plan.config.name!r} has no video {video_id!r}{hint}")


def _entry(plan: Plan, step: Step, item: str | None, listed: Entry | None = None) -> Entry:
    """What became of an item in a stage; `listed` is its row, of a stage whose rows are the plan's own."""
    entry: Entry = {"stage": step.name, "item": item, "key": step.identity.key}
    if item is None:
        return {**entry, "status": "not asked", "message": "its file was not read"}
    if item in step.places:
        place = step.places[item]
        entry |= {"shard": place.shard, "row": place.row}
        entry["path"] = step.store.path(step.name, step.identity.key, place.shard + SUFFIX)
        said = place.outcome
        entry |= {"status": said.status, "error": said.error, "message": said.message, "passing": bool(said.passing)}
        entry |= _details(step, place.shard, place.row, DETAILS.get(step.name, []))
    elif not step.kept and item not in step.missing:
        entry |= {"status": "not kept", "message": "it was used, and went (run.keep_frames)"}
    elif listed and listed["status"] == FAILED:
        entry |= {name: listed[name] for name in ("status", "error", "message", "passing")}
    else:
        entry |= {"status": "missing", "message": step.why(), "advice": "'run' computes it"}
    return entry


def _add_advice(plan: Plan, entries: Sequence[Entry], before: Sequence[Entry] = ()) -> None:
    """To what failed, by the stage in which it did: later ones pass it on. `before`: of a caption, its video's."""
    made = [entry for entry in (*entries, *before) if entry["stage"] not in SCORING]
    for entry in entries:
        if entry["status"] == FAILED:
            first = next((other for other in made if other.get("error") == entry["error"]), entry)
            entry["advice"] = advice(entry["error"] or "", _failed_in(first), plan.config)


def _failed_in(first: Entry) -> str:
    # Frames that were not kept took their row along. What decoding says begins with the file's name, in quotes.
    decoded = first["stage"] == VideoEmbeddings.name and (first["message"] or "").startswith(("'", '"'))
    return Frames.name if decoded else str(first["stage"])


def _details(step: Step, shard: str, row: int, columns: list[str]) -> Entry:
    """Some columns of a row; that the shard is damaged where it cannot be read."""
    if not columns:
        return {}
    try:
        [table] = read_rows(step.store, step.name, step.identity.key, [(shard, row)], columns=columns, chunk=1)
    except Damaged as error:
        return {"status": "damaged", "message": error.why, "advice": "'verify --repair', and then 'run'"}
    [found] = table.to_pylist()
    return {name: value for name, value in found.items() if value is not None}


def _scores(plan: Plan, scoring: Sequence[Step], item: str) -> Iterator[Entry]:
    """Of a query: its rank by each method, where it is one."""
    if not plan.embedded:
        waits = {"message": "waits for the embeddings", "advice": "'run' computes them"}
        yield {"stage": SCORING[0], "item": item, "key": None, "status": "missing", **waits}
    ties = plan.config.score.ties
    for step in scoring:
        if item not in step.items:
            continue
        entry = _entry(plan, step, item)
        if entry["status"] == OK:
            entry |= _details(step, entry["shard"], entry["row"], SCORED)
        if entry["status"] == OK:
            better, equal = (np.array([entry[name]]) for name in ("better", "equal"))
            entry["rank"] = float(query_ranks(better, equal, ties)[0])
        yield entry


def _add_times(plan: Plan, entries: Sequence[Entry]) -> None:
    """When each entry's shard was made: by the events of runs, else by the file."""
    listings = {step.name for step in plan.steps if step.stage is None}
    made = _made(plan, {entry["shard"] for entry in entries if "shard" in entry and entry["stage"] not in listings})
    for entry in entries:
        if "shard" not in entry:
            continue
        stamp = plan.store.stamp(entry["stage"], entry["key"], entry["shard"] + SUFFIX)
        written = {"written": _time(stamp.modified / 1e9)} if stamp and stamp.modified else {}
        entry["computed"] = made.get(entry["shard"], written)


def _made(plan: Plan, shards: set[str]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for parts in _runs(plan.store, plan.config.name):
        left = shards - found.keys()
        if not left:
            break
        for event in read_events(plan.store, parts):
            if event.get("shard") in left and not event.get("shared"):  # else another run made it, and says so
                found[event["shard"]] = {
                    "run": plan.store.path(*parts),
                    "began": _time(event["began"]),
                    "seconds": round(event["ended"] - event["began"], 3),
                    "items": event["items"],
                }
    return found


def _runs(store: Store, first: str) -> Iterable[tuple[str, str, str]]:
    """All runs, a config's own before the others', the newest first."""
    for name in sorted(run_names(store), key=lambda name: name != first):
        yield from ((RUNS, name, stamp) for stamp in reversed(runs(store, name)))


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
