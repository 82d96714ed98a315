"""Who takes part in the scoring: the dataset's listings joined with what became of each vector. All in Arrow."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clip2video_pipe.manifests import keys
from clip2video_pipe.manifests.schemas import FAILED, ITEM, ITEM_COLUMNS, OK
from clip2video_pipe.manifests.shards import well

OUTCOMES = pa.schema(ITEM)
ORPHANED = "its video failed"


@dataclass(frozen=True, eq=False)
class Entrants:
    """Who takes part, and why the others do not. A caption without its video is not a query."""

    videos: pa.Table  # item, id, content; by item: the columns of the matrix
    captions: pa.Table  # item, id, content, column (int64, of their video); by column, then item: rows
    failed: pa.Table  # of ITEM: listing rows that were asked for and cannot be scored

    @cached_property
    def digest(self) -> str:
        """Scores depend on who takes part, not on the order in which they were listed."""
        return keys.digest([self.videos["item"].to_pylist(), self.captions["item"].to_pylist()])

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """int64 [described videos + 1]: where each video's captions begin, those without any left out."""
        columns = self.captions["column"].to_numpy()
        return np.append(np.flatnonzero(np.diff(columns, prepend=-1)), len(columns)).astype(np.int64)

    @cached_property
    def described(self) -> npt.NDArray[np.int64]:
        """The matrix columns of videos with captions."""
        return np.unique(self.captions["column"].to_numpy())


def entrants(videos: pa.Table, captions: pa.Table, video_outcomes: pa.Table, caption_outcomes: pa.Table) -> Entrants:
    """Join the listings with the outcomes (of ITEM) of video_embeddings and caption_embeddings."""
    videos = with_outcomes(videos, "video", "video_id", video_outcomes)
    captions = with_outcomes(captions, "caption", "caption_id", caption_outcomes, "video_id")
    owner = pc.index_in(captions["video_id"], videos["id"].combine_chunks())
    said = videos.take(owner)
    orphaned = pc.and_(pc.equal(captions["status"], OK), pc.not_equal(said["status"], OK))
    passed_on = pc.binary_join_element_wise(ORPHANED, said["message"], ": ")
    captions = _with(captions, orphaned, pa.scalar(FAILED), said["error"], passed_on)
    entered = well(videos).sort_by("item")
    queries = well(captions)
    columns = pc.index_in(queries["video_id"], entered["id"].combine_chunks()).cast(pa.int64())
    queries = queries.append_column("column", columns).sort_by([("column", "ascending"), ("item", "ascending")])
    failed = [t.filter(pc.not_equal(t["status"], OK)).select(ITEM_COLUMNS).cast(OUTCOMES) for t in (videos, captions)]
    return Entrants(
        entered.select(["item", "id", "content"]),
        queries.select(["item", "id", "content", "column"]),
        pa.concat_tables(failed),
    )


def with_outcomes(listing: pa.Table, content: str, name: str, outcomes: pa.Table, *more: str) -> pa.Table:
    """Listing rows with the outcome of their content in place of their own, where their own is well.

    Columns: those of ITEM, `content` (its key), `id`, and `more`.
    """
    rows = listing.select([*ITEM_COLUMNS, content, name, *more])
    rows = rows.rename_columns([*ITEM_COLUMNS, "content", "id", *more])
    found = outcomes.take(pc.index_in(rows["content"], outcomes["item"].combine_chunks()))
    return _with(rows, pc.equal(rows["status"], OK), found["status"], found["error"], found["message"])


def _with(
    rows: pa.Table,
    where: pa.ChunkedArray,
    status: pa.ChunkedArray | pa.Scalar,
    error: pa.ChunkedArray,
    message: pa.ChunkedArray,
) -> pa.Table:
    for name, values in (("status", status), ("error", error), ("message", message)):
        rows = rows.set_column(rows.column_names.index(name), name, pc.if_else(where, values, rows[name]))
    return rows
