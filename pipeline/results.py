"""What a run found: metrics, coverage, gaps, and the tables of them in the run's folder."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clip2video_pipe.manifests import schemas
from clip2video_pipe.manifests.manifest import Manifest
from clip2video_pipe.manifests.schemas import OK
from clip2video_pipe.manifests.shards import well
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.plan import Plan, Step
from clip2video_pipe.stages.entrants import ORPHANED
from clip2video_pipe.stages.listing import EMPTY_CAPTION
from clip2video_pipe.stages.metrics import Ties, query_ranks, retrieval_metrics
from clip2video_pipe.stages.scoring import TEXT_TO_VIDEO, VIDEO_TO_TEXT

POOL = "video_to_text_pool"
DIRECTIONS = (TEXT_TO_VIDEO, VIDEO_TO_TEXT)
NEEDED = ["direction", "query_id", "video_id", "column", "score", "better", "equal"]
NEEDED += ["pool_better", "pool_equal", "wrong_id", "wrong_score"]


class Results(NamedTuple):
    """`metrics` is what metrics.json says; `tables` are written beside it, by name."""

    metrics: dict[str, Any]
    tables: dict[str, pa.Table]

    def write(self, store: Store, run: Sequence[str]) -> None:
        for name, table in self.tables.items():
            with store.writing(*run, f"{name}.parquet") as sink:
                pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        store.write_json(self.metrics, *run, "metrics.json")


def measure(plan: Plan, scoring: Sequence[Step]) -> Results:
    """Metrics in both directions, how much of the dataset they are over, and what is missing."""
    videos = _video_outcomes(plan)
    captions = scoring[0].places.table(plan.listing.captions["item"].to_pylist()) if scoring else None
    coverage: dict[str, Any] = {"videos": _coverage(videos["error"]), "decoding": _notes(plan.video_embeddings)}
    metrics: dict[str, Any] = {}
    tables: dict[str, pa.Table] = {}
    if captions is not None:
        coverage["captions"] = _coverage(captions["error"])
        metrics, tables["ranks"] = _ranked(plan, scoring)
        tables["columns"] = plan.entrants.videos.select(["id"]).rename_columns(["video_id"])
    tables["missing"] = _missing(plan, videos, captions)
    coverage["gaps"] = dict(sorted(Counter(tables["missing"]["problem"].to_pylist()).items()))
    return Results({**metrics, "coverage": coverage}, tables)


def _video_outcomes(plan: Plan) -> pa.Table:
    """`video_id`, `error` and `message` of each listed video: those of its vectors, where its file could be read."""
    listed, embedded = plan.listing.videos, plan.video_embeddings.outcomes
    at = pc.index_in(listed["video"], embedded["item"].combine_chunks())
    read = pc.equal(listed["status"], OK)
    said = {name: pc.if_else(read, embedded[name].take(at), listed[name]) for name in ("error", "message")}
    return pa.table({"video_id": listed["video_id"], **said})


def _coverage(errors: pa.ChunkedArray) -> dict[str, Any]:
    """Counts of the error classes of some items, null where all is well."""
    failed = Counter(errors.drop_null().to_pylist())
    return {
        "asked": len(errors),
        "ok": len(errors) - failed.total(),
        "failed": failed.total(),
        "errors": dict(sorted(failed.items())),
    }


def _notes(embeddings: Step) -> dict[str, int]:
    """How many videos are there with a note of each class: `damaged`, `decoded in full`."""
    notes = well(embeddings.outcomes)["message"].drop_null()
    return dict(sorted(Counter(note.partition(":")[0] for note in notes.to_pylist()).items()))


def _ranked(plan: Plan, scoring: Sequence[Step]) -> tuple[dict[str, Any], pa.Table]:
    """Metrics of each direction and each method, and the rank of every query."""
    ties = plan.config.score.ties
    square = len(plan.entrants.captions) == len(plan.entrants.described)
    found: dict[str, Any] = {}
    tables = []
    for step, method in zip(scoring, ("", *plan.config.score.post), strict=True):
        manifest = step.commit()
        rows = well(manifest.table(["status", *NEEDED]))
        lost = _not_finite(plan, manifest)
        for direction in DIRECTIONS:
            some = rows.filter(pc.equal(rows["direction"], direction))
            if method and not len(some):
                continue  # it has none of this direction
            names = {direction: ("better", "equal")}
            if direction == VIDEO_TO_TEXT and not method:
                names[POOL] = ("pool_better", "pool_equal")
            for name, counts in names.items():
                label = f"{name}+{method}" if method else name
                better, equal = (some[count].to_numpy() for count in counts)
                found[label] = {
                    **retrieval_metrics(
                        better,
                        equal,
                        ties=ties,
                        square=square or direction == VIDEO_TO_TEXT,
                        groups=some["column"].to_numpy(),
                    ),
                    "non_finite": lost[direction],
                }
                if method:
                    found[label]["whole_query_set"] = True
                tables.append(_rank_rows(label, some, better, equal, ties))
    return found, pa.concat_tables(tables)


def _not_finite(plan: Plan, manifest: Manifest) -> dict[str, int]:
    items = manifest.items
    lost = items.filter(pc.equal(items["error"], "not-finite"))["item"]
    captions = pc.is_in(lost, plan.listing.captions["item"].combine_chunks())
    texts = pc.sum(captions.cast(pa.int64())).as_py() or 0
    return {TEXT_TO_VIDEO: texts, VIDEO_TO_TEXT: len(lost) - texts}


def _rank_rows(
    label: str, rows: pa.Table, better: np.ndarray[Any, Any], equal: np.ndarray[Any, Any], ties: Ties
) -> pa.Table:
    columns = {name: rows[name] for name in ("query_id", "video_id", "score", "wrong_id", "wrong_score")}
    columns |= {"direction": pa.repeat(label, len(rows)), "rank": pa.array(query_ranks(better, equal, ties))}
    columns |= {"better": pa.array(better), "equal": pa.array(equal)}
    return pa.table({name: columns[name] for name in schemas.RANKS.names}).cast(schemas.RANKS)


def _missing(plan: Plan, videos: pa.Table, captions: pa.Table | None) -> pa.Table:
    """Of schemas.MISSING: each video, caption and file that the figures do not stand on, and why."""
    rows: list[tuple[str, str, str, str | None]] = []
    for row in videos.filter(pc.is_valid(videos["error"])).to_pylist():
        problem = "video-without-file" if row["error"] == "missing" else "video-failed"
        rows.append(("video", row["video_id"], problem, row["message"]))
    if captions is not None:
        names = captions.append_column("caption_id", plan.listing.captions["caption_id"])
        for row in names.filter(pc.is_valid(names["error"])).to_pylist():
            problem = _caption_problem(row["error"], row["message"] or "")
            rows.append(("caption", row["caption_id"], problem, row["message"]))
    for gap in plan.listing.gaps:
        rows.append((WHAT[gap.kind], gap.id, gap.kind, gap.message))
    names = schemas.MISSING.names
    return pa.table({name: [row[n] for row in rows] for n, name in enumerate(names)}, schemas.MISSING)


WHAT = {
    "caption-without-video": "caption",
    "video-without-captions": "video",
    "id-twice": "video",
    "file-not-asked": "file",
}


def _caption_problem(error: str, message: str) -> str:
    if error == EMPTY_CAPTION:
        return error
    return "caption-without-video" if message.startswith(ORPHANED) else "caption-failed"
