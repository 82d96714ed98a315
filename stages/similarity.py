"""video_embeddings and caption_embeddings -> similarity: matrix rows, ranks and best matches, both directions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from clip2video_pipe.manifests import keys, schemas
from clip2video_pipe.manifests.manifest import Manifest, load
from clip2video_pipe.manifests.schemas import FAILED, OK
from clip2video_pipe.manifests.shards import Outcome, outcome_table
from clip2video_pipe.manifests.store import Store, StoreError
from clip2video_pipe.stages import ranking
from clip2video_pipe.stages.base import Stage, unkeyed

SOURCE = pa.schema([pa.field("item", pa.string())])
BLOCK_BYTES = 16 << 20  # of scores in memory at a time, and so of a row group

TEXT_TO_VIDEO = "text_to_video"
VIDEO_TO_TEXT = "video_to_text"


class Entry(NamedTuple):
    """A caption or a video that takes part: a row of the dataset's listing, and the key of its vectors."""

    item: str
    id: str
    video_id: str
    content: str


@dataclass(frozen=True)
class Entrants:
    """Who takes part in the scoring, and why the others do not. A caption without its video is not a query."""

    videos: tuple[Entry, ...]  # by item key: the columns of the matrix
    captions: tuple[Entry, ...]  # by column of their video, then by item key
    failed: Mapping[str, Outcome]  # listing rows that were asked for and cannot be scored

    @property
    def digest(self) -> str:
        """Scores depend on who takes part, not on the order in which they were listed."""
        return keys.digest([[e.item for e in self.videos], [e.item for e in self.captions]])


def entrants(
    videos: pa.Table,
    captions: pa.Table,
    video_outcomes: Mapping[str, Outcome],
    caption_outcomes: Mapping[str, Outcome],
) -> Entrants:
    """Join the dataset's listings with what became of each video's and each caption's vectors."""
    failed: dict[str, Outcome] = {}
    present: list[Entry] = []
    reasons: dict[str, Outcome] = {}
    for row in videos.select([*schemas.ITEM_COLUMNS, "video_id", "video"]).to_pylist():
        outcome = _listed(row) if row["status"] != OK else video_outcomes[row["video"]]
        if outcome.status == OK:
            present.append(Entry(row["item"], row["video_id"], row["video_id"], row["video"]))
        else:
            reasons[row["video_id"]] = outcome
            failed[row["item"]] = outcome
    present.sort()
    columns = {entry.id: column for column, entry in enumerate(present)}
    queries: list[Entry] = []
    names = [*schemas.ITEM_COLUMNS, "caption_id", "video_id", "caption"]
    for row in captions.select(names).to_pylist():
        outcome = _listed(row) if row["status"] != OK else caption_outcomes[row["caption"]]
        if outcome.status == OK and row["video_id"] in reasons:
            why = reasons[row["video_id"]]
            outcome = Outcome(FAILED, why.error, f"its video failed: {why.message}")
        if outcome.status == OK:
            queries.append(Entry(row["item"], row["caption_id"], row["video_id"], row["caption"]))
        else:
            failed[row["item"]] = outcome
    queries.sort(key=lambda entry: (columns[entry.video_id], entry.item))
    return Entrants(tuple(present), tuple(queries), failed)


def _listed(row: Mapping[str, Any]) -> Outcome:
    return Outcome(row["status"], row["error"], row["message"])


@dataclass(frozen=True)
class Gallery:
    """What queries of one direction are ranked over: `groups` of columns, each a video."""

    vectors: np.ndarray  # float32 [contents, D]: each content once
    content: np.ndarray  # intp [members]: which vector a caption or video has
    starts: np.ndarray | None  # intp [videos]: where each video's captions begin; None: one member a video
    videos: np.ndarray  # intp [groups]: the matrix column of each group's video

    def scores(self, queries: np.ndarray) -> ranking.Scores:
        """float32 [queries, groups]. Equal contents get equal scores to the bit: each is multiplied once."""
        members = (queries @ self.vectors.T)[:, self.content]
        return members if self.starts is None else ranking.group_maximum(members, self.starts)


@dataclass(kw_only=True, eq=False)
class Similarity(Stage):
    """Scores every caption over all videos and every video over all captions (reference 15, 19).

    `S = exp(logit_scale) * (w * t_g . v_g + (1 - w) * t_a . v_a)`; without an alignment block w counts as 1.
    A video's score for another's captions is the best of them. Reads SOURCE rows: an item of the `captions`
    listing is a text-to-video query, one of `videos` a video-to-text query.
    """

    name: ClassVar[str] = "similarity"
    version: ClassVar[int] = 1
    lane: ClassVar[Literal["task", "actor"]] = "actor"
    bulk: ClassVar[int] = 16

    entrants: str  # their digest
    center_weight: float
    top_k: int
    save_matrix: bool
    store: Store = unkeyed(None)
    manifests: Mapping[str, str] = unkeyed(None)  # hashes of the four manifests it reads, by stage
    widest: int = unkeyed(1)  # members of the larger gallery

    @property
    def schema(self) -> pa.Schema:
        return schemas.SIMILARITY

    @property
    def chunk(self) -> int:
        return min(1024, max(1, BLOCK_BYTES // (4 * self.widest)))

    def setup(self) -> None:
        loaded = {stage: _load(self.store, stage, found) for stage, found in self.manifests.items()}
        who = entrants(
            loaded["videos"].table(),
            loaded["captions"].table(),
            {item: place.outcome for item, place in loaded["video_embeddings"].places.items()},
            {item: place.outcome for item, place in loaded["caption_embeddings"].places.items()},
        )
        if who.digest != self.entrants:
            raise StoreError("the listings changed while they were scored; run again")
        videos, video_content = _vectors(loaded["video_embeddings"], who.videos, self._join_video)
        captions, caption_content = _vectors(loaded["caption_embeddings"], who.captions, self._join_caption)
        columns = {entry.video_id: column for column, entry in enumerate(who.videos)}
        owner = np.array([columns[entry.video_id] for entry in who.captions], dtype=np.intp)
        described, starts = np.unique(owner, return_index=True)
        self._who = who
        self._owner = owner
        self._row = {entry.item: row for row, entry in enumerate(who.captions)}
        self._column = {entry.item: column for column, entry in enumerate(who.videos)}
        self._group = {int(column): group for group, column in enumerate(described)}
        self._videos = Gallery(videos, video_content, None, np.arange(len(who.videos)))
        self._captions = Gallery(captions, caption_content, starts, described)

    def _join_video(self, table: pa.Table) -> np.ndarray:
        return np.concatenate(list(_matrices(table)), axis=1)

    def _join_caption(self, table: pa.Table) -> np.ndarray:
        """The weights of both products and the scale go into the caption's side."""
        both = list(_matrices(table))
        weights = [self.center_weight, 1 - self.center_weight] if len(both) == 2 else [1.0]
        scale = table["scale"].to_numpy().astype(np.float32)[:, None]
        joined = [scale * np.float32(w) * vectors for w, vectors in zip(weights, both, strict=True)]
        return np.concatenate(joined, axis=1)

    def process(self, table: pa.Table) -> pa.Table:
        items = table["item"].to_pylist()
        texts = [item for item in items if item in self._row]
        # A video whose captions all failed is a column to the others but has no query of its own.
        videos = [i for i in items if i in self._column and self._column[i] in self._group]
        rows = self._text_to_video(texts) | self._video_to_text(videos)
        outcomes = [self._outcome(item, rows.get(item)) for item in items]
        kept = [rows[i] if o.status == OK else {} for i, o in zip(items, outcomes, strict=True)]
        names = schemas.SIMILARITY.names[len(schemas.ITEM_COLUMNS) :]
        columns = {
            name: pa.array([row.get(name) for row in kept], schemas.SIMILARITY.field(name).type) for name in names
        }
        return outcome_table(self.schema, items, outcomes, columns)

    def _outcome(self, item: str, row: Mapping[str, Any] | None) -> Outcome:
        if row is None:
            return self._who.failed.get(item, Outcome(FAILED, "no-captions", "all of its captions failed"))
        if not row["finite"]:
            return Outcome(FAILED, "not-finite", "a score is not a finite number: are the weights sound?")
        return Outcome(OK)

    def _text_to_video(self, items: list[str]) -> dict[str, dict[str, Any]]:
        at = np.array([self._row[item] for item in items], dtype=np.intp)
        queries = self._captions.vectors[self._captions.content[at]]
        own = self._owner[at]
        entries = [self._who.captions[row] for row in at]
        return self._rank(TEXT_TO_VIDEO, entries, queries, self._videos, own, own, self.save_matrix)

    def _video_to_text(self, items: list[str]) -> dict[str, dict[str, Any]]:
        at = np.array([self._column[item] for item in items], dtype=np.intp)
        queries = self._videos.vectors[self._videos.content[at]]
        own = np.array([self._group[int(column)] for column in at], dtype=np.intp)
        entries = [self._who.videos[column] for column in at]
        return self._rank(VIDEO_TO_TEXT, entries, queries, self._captions, own, at, False)

    def _rank(
        self,
        direction: str,
        entries: list[Entry],
        queries: np.ndarray,
        gallery: Gallery,
        own: np.ndarray,
        columns: np.ndarray,
        keep: bool,
    ) -> dict[str, dict[str, Any]]:
        """Result rows by item. `own[q]` is the query's group in the gallery, `columns[q]` its matrix column."""
        if not entries:
            return {}
        scores = gallery.scores(queries)
        mine, better, equal = ranking.standing(scores, own)
        best = ranking.top(scores, self.top_k)
        finite = [bool(np.isfinite(row).all()) for row in scores]
        return {
            entry.item: {
                "direction": direction,
                "query_id": entry.id,
                "video_id": entry.video_id,
                "column": int(columns[q]),
                "score": mine[q],
                "better": int(better[q]),
                "equal": int(equal[q]),
                "top_ids": [self._who.videos[gallery.videos[group]].id for group in best[q]],
                "top_scores": scores[q, best[q]],
                "scores": scores[q] if keep else None,
                "finite": finite[q],
            }
            for q, entry in enumerate(entries)
        }


def _vectors(
    manifest: Manifest, entries: tuple[Entry, ...], join: Callable[[pa.Table], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """float32 [contents, D] and which of them each entry has."""
    wanted = {entry.content for entry in entries}
    order: dict[str, int] = {}
    blocks = []
    for table in manifest.rows():
        table = table.filter(pa.array([i in wanted for i in table["item"].to_pylist()], pa.bool_()))
        if table.num_rows:
            order |= {item: len(order) + n for n, item in enumerate(table["item"].to_pylist())}
            blocks.append(join(table))
    vectors = np.concatenate(blocks) if blocks else np.empty((0, 1), np.float32)
    return vectors, np.array([order[entry.content] for entry in entries], dtype=np.intp)


def _matrices(table: pa.Table) -> list[np.ndarray]:
    """float32 [rows, D] of the global and, where the model has one, the aligned vectors."""
    columns = [table[name].combine_chunks() for name in ("global", "aligned")]
    return [column.flatten().to_numpy().reshape(table.num_rows, -1) for column in columns if not column.null_count]


def _load(store: Store, stage: str, found: str) -> Manifest:
    manifest = load(store, stage, found)
    if manifest is None:
        raise StoreError(f"manifest {store.path('manifests', stage, found)} has gone; run again")
    return manifest
