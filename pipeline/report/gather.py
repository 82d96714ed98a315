"""What a report shows, out of the store: queries and what they preferred, the matrix, lengths, look-alikes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clip2video_pipe.manifests.schemas import OK
from clip2video_pipe.manifests.shards import read_rows, well
from clip2video_pipe.pipeline.export import video_vectors
from clip2video_pipe.pipeline.plan import Plan, Step
from clip2video_pipe.stages.scoring import TEXT_TO_VIDEO

QUERIES = 6  # of each kind
PREFERRED = 5
PIXELS = 360  # of the matrix, each way
STRIPS = 24  # of a corpus without captions
PAIRS = 12  # of videos that look alike
ALIKE = 0.9  # cosine; pairs below it are none
COMPARED = 20_000  # videos, at most: all pairs of them are looked at
BLOCK = 1024

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Answer:
    """A video that a query was given: `right` where it is the query's own."""

    video_id: str
    content: str | None
    score: float
    right: bool


@dataclass(frozen=True)
class Query:
    """A caption, its rank and score, its own video, and the best of the videos."""

    text: str
    rank: float
    own: Answer
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Facts:
    """All but what the run itself has said. Of a corpus without captions the first four are empty."""

    ranks: Mapping[str, Floats] = field(default_factory=dict)  # [queries] by direction
    wrong: Sequence[Query] = ()  # the worst
    narrow: Sequence[Query] = ()  # right, by the least
    matrix: Floats | None = None  # [captions, videos], both thinned out
    seconds: Floats | None = None  # [videos] how long each clip is
    alike: Sequence[tuple[float, str, str | None, str, str | None]] = ()  # cosine, and id and content of both
    some: Sequence[tuple[str, str]] = ()  # id and content of videos to show


def gather(plan: Plan, ranks: pa.Table | None, scoring: Sequence[Step]) -> Facts:
    """Read what a report needs. `ranks` is that of schemas.RANKS, None where nothing was scored."""
    seconds = _seconds(plan.frames)
    if ranks is None or not scoring:
        return Facts(seconds=seconds, alike=_alike(plan), some=_contents(plan)[:STRIPS])
    directions = ranks["direction"].unique().to_pylist()
    by_direction = {
        name: ranks.filter(pc.equal(ranks["direction"], name))["rank"].to_numpy()
        for name in directions
        if "+" not in name
    }
    asked = ranks.filter(pc.equal(ranks["direction"], TEXT_TO_VIDEO))
    wrong, narrow = _worst(asked), _narrow(asked)
    told = _queries(plan, scoring[0], pa.concat_tables([wrong, narrow]))
    return Facts(
        ranks=by_direction,
        wrong=told[: len(wrong)],
        narrow=told[len(wrong) :],
        matrix=_matrix(plan, scoring[0]) if plan.config.score.save_matrix else None,
        seconds=seconds,
    )


def _worst(ranks: pa.Table) -> pa.Table:
    wrong = ranks.filter(pc.greater(ranks["rank"], 1))
    return wrong.sort_by([("rank", "descending"), ("query_id", "ascending")]).slice(0, QUERIES)


def _narrow(ranks: pa.Table) -> pa.Table:
    right = ranks.filter(pc.and_(pc.equal(ranks["rank"], 1), pc.is_valid(ranks["wrong_id"])))
    by = pc.subtract(right["score"], right["wrong_score"])
    return (
        right.append_column("by", by)
        .sort_by([("by", "ascending"), ("query_id", "ascending")])
        .slice(0, QUERIES)
        .drop(["by"])
    )


def _queries(plan: Plan, step: Step, rows: pa.Table) -> list[Query]:
    """What the queries of rows of RANKS were given; with `score.top_k: 0` only the best wrong one is known."""
    captions = plan.listing.captions
    at = pc.index_in(rows["query_id"], captions["caption_id"].combine_chunks())
    items, texts = captions["item"].take(at).to_pylist(), captions["text"].take(at).to_pylist()
    contents = dict(_contents(plan))
    places = [(place.shard, place.row) for place in (step.places[item] for item in items)]
    columns = ["top_ids", "top_scores"]
    tables = list(read_rows(step.store, step.name, step.identity.key, places, columns=columns, chunk=2 * QUERIES))
    tops = [top for table in tables for top in table.to_pylist()]
    found = []
    for row, top, text in zip(rows.to_pylist(), tops, texts, strict=True):
        pairs = list(zip(top["top_ids"] or (), top["top_scores"] or (), strict=True))[:PREFERRED]
        if not pairs and row["wrong_id"] is not None:
            pairs = [(row["wrong_id"], row["wrong_score"])]
        answers = [Answer(name, contents.get(name), score, name == row["video_id"]) for name, score in pairs]
        own = Answer(row["video_id"], contents.get(row["video_id"]), row["score"], True)
        found.append(Query(text or "", row["rank"], own, answers))
    return found


def _contents(plan: Plan) -> list[tuple[str, str]]:
    """Id and content of each video that could be read, in the dataset's order."""
    videos = plan.listing.videos
    read = videos.filter(pc.is_valid(videos["video"]))
    return list(zip(read["video_id"].to_pylist(), read["video"].to_pylist(), strict=True))


def _matrix(plan: Plan, step: Step) -> Floats | None:
    """float32 [<= PIXELS, <= PIXELS]: so many captions, evenly, and of each run of columns the highest score."""
    captions = plan.entrants.captions["item"]
    chosen = np.unique(np.linspace(0, len(captions) - 1, min(PIXELS, len(captions))).round().astype(np.int64))
    items = captions.take(pa.array(chosen)).to_pylist()
    places = [(p.shard, p.row) for p in (step.places[item] for item in items) if p.outcome.status == OK]
    lines = []
    for table in read_rows(step.store, step.name, step.identity.key, places, columns=["scores"], chunk=32):
        for row in table["scores"].combine_chunks():
            if row.is_valid:
                line = row.values.to_numpy()
                starts = np.unique(np.linspace(0, len(line), min(PIXELS, len(line)) + 1)[:-1].astype(np.int64))
                lines.append(np.maximum.reduceat(line, starts))
    return np.stack(lines) if lines else None


def _seconds(frames: Step) -> Floats | None:
    """[videos] seconds of each clip that decodes; None where frames were not kept."""
    if frames.manifest is None:
        return None
    rows = well(frames.manifest.table(["status", "decoded", "rate"]))
    if not len(rows):
        return None
    lengths: Floats = rows["decoded"].to_numpy() / rows["rate"].to_numpy()
    return lengths[np.isfinite(lengths)]


def _alike(plan: Plan) -> list[tuple[float, str, str | None, str, str | None]]:
    """The pairs of different contents whose vectors have the highest cosine, best first."""
    if not plan.video_embeddings.manifest or not plan.video_embeddings.manifest.counts["ok"]:
        return []
    found = video_vectors(plan, COMPARED)
    contents = dict(_contents(plan))
    ids = found.ids["video_id"].to_pylist()
    rows = {contents[name]: n for n, name in reversed(list(enumerate(ids)))}  # a content once
    order = np.array(sorted(rows.values()))
    unit = found.vectors.take(order)
    norm = np.linalg.norm(unit, axis=1)
    sound = np.isfinite(norm) & (norm > 0)
    order, unit = order[sound], unit[sound] / norm[sound, None]
    best: list[tuple[float, int, int]] = []
    for start in range(0, len(unit), BLOCK):
        cosine = unit[start : start + BLOCK] @ unit[start:].T
        cosine[np.tril_indices(len(cosine), 0, cosine.shape[1])] = -1  # itself, and pairs that come the other way round
        for flat in np.argpartition(cosine.reshape(-1), -min(PAIRS, cosine.size))[-PAIRS:].tolist():
            row, column = divmod(flat, cosine.shape[1])
            best.append((float(cosine[row, column]), int(order[start + row]), int(order[start + column])))
    top = sorted(best, reverse=True)[:PAIRS]
    return [
        (said, ids[one], contents.get(ids[one]), ids[two], contents.get(ids[two]))
        for said, one, two in top
        if said >= ALIKE
    ]
