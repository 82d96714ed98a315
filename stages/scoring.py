"""video_embeddings and caption_embeddings -> ranks: every caption over all videos, every video over all captions."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clip2video_pipe.manifests import schemas
from clip2video_pipe.manifests.manifest import Manifest, load
from clip2video_pipe.manifests.schemas import FAILED, OK
from clip2video_pipe.manifests.shards import Outcome, outcome_table
from clip2video_pipe.manifests.store import Store, StoreError
from clip2video_pipe.stages.base import Stage, unkeyed
from clip2video_pipe.stages.entrants import Entrants, entrants
from clip2video_pipe.stages.ranking import QUERIES, Gallery, Ranked
from clip2video_pipe.stages.vectors import Floats, Positions, Vectors, first_row, joined, joined_width, read_vectors

READ = ("videos", "captions", "video_embeddings", "caption_embeddings")

NO_CAPTIONS = "no-captions"
NOT_FINITE = "not-finite"

SOURCE = pa.schema([pa.field("item", pa.string())])

Direction = Literal["text_to_video", "video_to_text"]

TEXT_TO_VIDEO: Final = "text_to_video"
VIDEO_TO_TEXT: Final = "video_to_text"


class Side(NamedTuple):
    """One direction's queries and what they are ranked over."""

    direction: Direction
    queries: Vectors
    at: Positions  # of each query its row of `queries`
    items: pa.Array  # of each query
    ids: pa.Array
    own: Positions  # of each query: the gallery's group that it belongs to
    gallery: Gallery
    videos: Positions  # of each group: the matrix column of its video


@dataclass(kw_only=True, eq=False)
class Scoring(Stage):
    """What the stages that score share: who takes part, their vectors, and rows out of ranks (reference 15, 19).

    `S = exp(logit_scale) * (w * t_g . v_g + (1 - w) * t_a . v_a)`; without an alignment block w counts as 1.
    A video's score for another's captions is the best of them. Reads SOURCE rows: an item of the `captions`
    listing is a text-to-video query, one of `videos` a video-to-text query.
    """

    lane: ClassVar[Literal["task", "actor"]] = "actor"
    blameless: ClassVar[bool] = True
    directions: ClassVar[tuple[Direction, ...]] = (TEXT_TO_VIDEO, VIDEO_TO_TEXT)

    entrants: str  # their digest
    center_weight: float
    top_k: int
    store: Store = unkeyed(None)
    manifests: Mapping[str, str] = unkeyed(None)  # hashes of the manifests it reads, by stage
    memory: int = unkeyed(2 * 10**9)  # bytes of vectors and scores to hold
    _sides: dict[str, Side] = field(init=False, repr=False, metadata={"keyed": False})

    @abstractmethod
    def rank(self, side: Side, chosen: Positions) -> tuple[Ranked, Floats | None]:
        """Ranks of a side's queries at `chosen`, and their rows of the matrix where those are kept."""

    @property
    def chunk(self) -> int:
        return QUERIES * 8

    def use_threads(self, count: int) -> None:
        import torch

        torch.set_num_threads(count)

    def setup(self) -> None:
        loaded = {stage: self._load(stage) for stage in READ}
        who = entrants(
            loaded["videos"].table([*schemas.ITEM_COLUMNS, "video_id", "video"]),
            loaded["captions"].table([*schemas.ITEM_COLUMNS, "caption_id", "video_id", "caption"]),
            loaded["video_embeddings"].items.select(schemas.ITEM_COLUMNS),
            loaded["caption_embeddings"].items.select(schemas.ITEM_COLUMNS),
        )
        if who.digest != self.entrants:
            raise StoreError("the listings changed while they were scored; run again")
        self._who = who
        self._ids = who.videos["id"].combine_chunks()
        vectors = self._vectors(who, loaded)
        self._sides = {side.direction: side for side in _sides(who, *vectors) if side.direction in self.directions}

    def _vectors(self, who: Entrants, loaded: Mapping[str, Manifest]) -> tuple[Vectors, Vectors]:
        """Of all videos, and of all captions: in memory as far as half of what may be held is enough for."""
        contents = [who.videos["content"].combine_chunks(), who.captions["content"].combine_chunks()]
        free, found = self.memory // 2, []
        for stage, wanted, join in zip(READ[2:], contents, (joined, self._weighted), strict=True):
            width = joined_width(loaded[stage])
            size = 4 * width * len(wanted)
            found.append(read_vectors(loaded[stage], wanted, width, join, in_memory=size <= free))
            free -= size if size <= free else 0
        return found[0], found[1]

    def _load(self, stage: str) -> Manifest:
        manifest = load(self.store, stage, self.manifests[stage])
        if manifest is None:
            path = self.store.path("manifests", stage, self.manifests[stage])
            raise StoreError(f"manifest {path} has gone; run again")
        return manifest

    def _scale(self, captions: Manifest) -> float:
        """exp(logit_scale): the same for all captions."""
        return next(float(row["scale"][0].as_py()) for row in first_row(captions))

    def _weighted(self, table: pa.Table) -> Floats:
        """The weights of both products and the scale go into the caption's side."""
        return joined(table, (self.center_weight, 1 - self.center_weight))

    def rows_at_once(self, gallery: Gallery) -> int:
        """How many queries are multiplied at a time, so that scores take an eighth of the memory at most."""
        return max(1, min(QUERIES, self.memory // (64 * max(1, gallery.largest))))

    def process(self, table: pa.Table) -> pa.Table:
        items = table["item"].combine_chunks()
        parts, taken = [], []
        for side in self._sides.values():
            at = pc.index_in(items, side.items)
            rows = np.flatnonzero(at.is_valid().to_numpy(zero_copy_only=False))
            if not len(rows):
                continue
            chosen = at.drop_null().to_numpy().astype(np.int64)
            order = np.argsort(side.own[chosen], kind="stable")  # so that own groups lie in few tiles
            parts.append(self._rows(side, items.take(pa.array(rows[order])), chosen[order]))
            taken.append(rows[order])
        rest = np.setdiff1d(np.arange(len(items)), np.concatenate([*taken, np.empty(0, np.int64)]))
        if len(rest):
            parts.append(self._failed(items.take(pa.array(rest)).to_pylist()))
            taken.append(rest)
        found = pa.concat_tables(parts)
        order = np.argsort(np.concatenate(taken), kind="stable")
        return found if (order == np.arange(len(order))).all() else found.take(pa.array(order))

    def _failed(self, items: list[str]) -> pa.Table:
        said = {row.pop("item"): Outcome(**row) for row in self._who.failed.to_pylist()}
        # A video whose captions all failed is a column to the others but has no query of its own.
        unasked = Outcome(FAILED, NO_CAPTIONS, "all of its captions failed")
        return outcome_table(self.schema, items, [said.get(item, unasked) for item in items], {})

    def _rows(self, side: Side, items: pa.Array, chosen: Positions) -> pa.Table:
        ranked, matrix = self.rank(side, chosen)
        columns = side.videos[side.own[chosen]]
        wrong, wrong_scores = _best_wrong(ranked, side.own[chosen])
        k = min(self.top_k, len(side.gallery))
        well = ranked.finite
        odd = Outcome(FAILED, NOT_FINITE, "a score is not a finite number: are the weights sound?")
        values = {
            "direction": pa.repeat(side.direction, len(items)),
            "query_id": side.ids.take(pa.array(chosen)),
            "video_id": self._ids.take(pa.array(columns)),
            "column": pa.array(columns.astype(np.int32)),
            "score": pa.array(ranked.score.astype(np.float32)),
            **{name: pa.array(getattr(ranked, name)) for name in ("better", "equal", "pool_better", "pool_equal")},
            "wrong_id": self._ids.take(pa.array(side.videos[np.maximum(wrong, 0)], mask=wrong < 0)),
            "wrong_score": pa.array(wrong_scores.astype(np.float32), mask=wrong < 0),
            "top_ids": _lists(self._ids.take(pa.array(side.videos[ranked.top[:, :k]].ravel())), len(items), k),
            "top_scores": _lists(pa.array(ranked.top_scores[:, :k].astype(np.float32).ravel()), len(items), k),
            "scores": pa.nulls(len(items), pa.list_(pa.float32()))
            if matrix is None
            else _lists(pa.array(matrix.reshape(-1)), *matrix.shape),
        }
        values = {name: values[name] for name in self.schema.names if name in values}
        if not well.all():
            sound = pa.array(well)
            values = {n: pc.if_else(sound, v, pa.scalar(None, v.type)) for n, v in values.items()}
        return outcome_table(self.schema, items.to_pylist(), [Outcome(OK) if w else odd for w in well], values)


def _sides(who: Entrants, videos: Vectors, captions: Vectors) -> Iterator[Side]:
    columns = who.captions["column"].to_numpy()
    every = np.arange(len(who.videos), dtype=np.int64)
    yield Side(
        TEXT_TO_VIDEO,
        captions,
        np.arange(len(columns), dtype=np.int64),
        who.captions["item"].combine_chunks(),
        who.captions["id"].combine_chunks(),
        columns,
        Gallery(videos, np.arange(len(every) + 1, dtype=np.int64)),
        every,
    )
    described = who.described
    yield Side(
        VIDEO_TO_TEXT,
        videos,
        described,
        who.videos["item"].combine_chunks().take(pa.array(described)),
        who.videos["id"].combine_chunks().take(pa.array(described)),
        np.arange(len(described), dtype=np.int64),
        Gallery(captions, who.starts),
        described,
    )


def _best_wrong(ranked: Ranked, own: Positions) -> tuple[Positions, npt.NDArray[np.floating]]:
    """Group and score of each query's best group that is not its own; -1 where there is no other."""
    wrong = np.full(len(own), -1, np.int64)
    scores = np.zeros(len(own))
    for place in reversed(range(min(2, ranked.top.shape[1]))):
        other = ranked.top[:, place] != own
        wrong[other] = ranked.top[other, place]
        scores[other] = ranked.top_scores[other, place]
    return wrong, scores


def _lists(values: pa.Array, rows: int, width: int) -> pa.Array:
    """`rows` lists of `width` values."""
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * np.int32(width)), values)
