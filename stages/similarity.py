"""video_embeddings and caption_embeddings -> similarity: matrix rows, ranks and best matches, both directions."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from clip2video_pipe.manifests import schemas
from clip2video_pipe.stages.base import unkeyed
from clip2video_pipe.stages.ranking import Ranked, rank
from clip2video_pipe.stages.scoring import TEXT_TO_VIDEO, Scoring, Side
from clip2video_pipe.stages.vectors import Floats, Positions

MATRIX_BYTES = 32 << 20  # of the matrix in a row group


@dataclass(kw_only=True, eq=False)
class Similarity(Scoring):
    """The model's scores as they are."""

    name: ClassVar[str] = "similarity"
    version: ClassVar[int] = 2
    bulk: ClassVar[int] = 16

    save_matrix: bool
    videos: int = unkeyed(1)  # columns of the matrix

    @property
    def schema(self) -> pa.Schema:
        return schemas.SIMILARITY

    @property
    def chunk(self) -> int:
        return max(1, min(super().chunk, MATRIX_BYTES // (4 * self.videos))) if self.save_matrix else super().chunk

    def rank(self, side: Side, chosen: Positions) -> tuple[Ranked, Floats | None]:
        kept = self.save_matrix and side.direction == TEXT_TO_VIDEO
        matrix = np.empty((len(chosen), len(side.gallery)), np.float32) if kept else None

        def keep(some: slice, first: int, scores: Floats) -> None:
            assert matrix is not None
            matrix[some, first : first + scores.shape[1]] = scores

        return rank(
            side.queries.take(side.at[chosen]),
            side.own[chosen],
            side.gallery,
            max(2, self.top_k),
            keep=keep if kept else None,
            rows=self.rows_at_once(side.gallery),
        ), matrix
