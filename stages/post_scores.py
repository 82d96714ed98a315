"""similarity's inputs -> dual_softmax, qb_norm, sinkhorn: ranks by scores that use the whole query set."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clip2video_pipe.manifests import schemas
from clip2video_pipe.manifests.shards import well
from clip2video_pipe.manifests.store import StoreError
from clip2video_pipe.stages.postprocessing import (
    BETA,
    SINKHORN_PASSES,
    DualSoftmax,
    PostMethod,
    QueryBank,
    Rows,
    Sinkhorn,
)
from clip2video_pipe.stages.ranking import Adjust, Gallery, Ranked, rank
from clip2video_pipe.stages.scoring import TEXT_TO_VIDEO, Direction, Scoring, Side
from clip2video_pipe.stages.vectors import Floats, Positions, Vectors, read_vectors

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True, eq=False)
class PostScores(Scoring):
    """Ranks after a method of `postprocessing`. Each worker passes over the whole matrix before its first row."""

    bulk: ClassVar[int] = 16

    @property
    def schema(self) -> pa.Schema:
        return schemas.POST_SCORES

    @abstractmethod
    def fit(self, side: Side) -> Adjust:
        """What the method does to the scores of one direction."""

    def setup(self) -> None:
        super().setup()
        self._post = {side.direction: self.fit(side) for side in self._sides.values() if len(side.at)}

    def rank(self, side: Side, chosen: Positions) -> tuple[Ranked, Floats | None]:
        return self.ranked(side, chosen, self._post[side.direction]), None

    def ranked(self, side: Side, chosen: Positions, adjust: Adjust | None) -> Ranked:
        queries = side.queries.take(side.at[chosen])
        rows = self.rows_at_once(side.gallery)
        return rank(queries, side.own[chosen], side.gallery, max(2, self.top_k), adjust=adjust, rows=rows)

    def matrix(self, gallery: Gallery, queries: Vectors, at: Positions) -> Rows:
        """Passes over the scores of `queries` at `at`: whole rows, an eighth of the memory at a time."""
        step = max(1, min(self.rows_at_once(gallery), self.memory // (64 * len(gallery))))

        def rows() -> Iterator["Tensor"]:
            import torch

            for start in range(0, len(at), step):
                block = torch.from_numpy(queries.take(at[start : start + step]))
                tiles = (gallery.tile(number, block).groups for number in range(len(gallery.bounds) - 1))
                yield torch.cat(list(tiles), dim=1)

        return rows


@dataclass(kw_only=True, eq=False)
class DualSoftmaxScores(PostScores):
    name: ClassVar[str] = "dual_softmax"
    version: ClassVar[int] = 1

    def fit(self, side: Side) -> Adjust:
        return DualSoftmax.fit(self.matrix(side.gallery, side.queries, side.at))


@dataclass(kw_only=True, eq=False)
class SinkhornScores(PostScores):
    name: ClassVar[str] = "sinkhorn"
    version: ClassVar[int] = 1

    passes: int = SINKHORN_PASSES

    def fit(self, side: Side) -> Adjust:
        return Sinkhorn.fit(self.matrix(side.gallery, side.queries, side.at), len(side.gallery), self.passes)


@dataclass(kw_only=True, eq=False)
class QueryBankScores(PostScores):
    """Text to video alone: the bank holds captions, and no training videos are embedded."""

    name: ClassVar[str] = "qb_norm"
    version: ClassVar[int] = 1
    directions: ClassVar[tuple[Direction, ...]] = (TEXT_TO_VIDEO,)

    beta: float = BETA

    def fit(self, side: Side) -> QueryBank:
        embeddings, bank = self._load("caption_embeddings"), self._load("query_bank")
        items = bank.items["item"]
        captions = items.filter(pc.is_in(items, well(embeddings.items)["item"])).combine_chunks()
        if not len(captions):
            raise StoreError("no caption of the query bank has a vector, so qb-norm has nothing to go by")
        width = side.queries.width
        fits = 4 * width * len(captions) <= self.memory // 4
        vectors = read_vectors(embeddings, captions, width, self._weighted, in_memory=fits)
        rows = self.matrix(side.gallery, vectors, np.arange(len(captions), dtype=np.int64))
        self._bank = QueryBank.fit(rows, len(side.gallery), self.beta / self._scale(embeddings))
        return self._bank

    def rank(self, side: Side, chosen: Positions) -> tuple[Ranked, Floats | None]:
        plain = self.ranked(side, chosen, None)
        changed = self.ranked(side, chosen, self._bank)
        active = self._bank.active.numpy()[plain.top[:, 0]]

        def pick(new: Any, old: Any) -> Any:
            return np.where(active if new.ndim == 1 else active[:, None], new, old)

        return Ranked(*(pick(new, old) for new, old in zip(changed, plain, strict=True))), None


POST_STAGES: dict[PostMethod, type[PostScores]] = {
    "dual-softmax": DualSoftmaxScores,
    "qb-norm": QueryBankScores,
    "sinkhorn": SinkhornScores,
}
