"""frames -> video_embeddings: the global and the aligned vector of each video."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from clip2video_pipe.manifests import schemas
from clip2video_pipe.manifests.faults import point
from clip2video_pipe.manifests.shards import Outcome, outcome_table, outcomes_of
from clip2video_pipe.stages.base import unkeyed
from clip2video_pipe.stages.batches import Batches
from clip2video_pipe.stages.embedding import Embedding, embedding_columns, joined, scatter
from clip2video_pipe.stages.pictures import pixels_of

if TYPE_CHECKING:
    from clip2video_pipe.models.upload import Uploaded


class Loaded(NamedTuple):
    """Some videos, their pictures on the way to the device."""

    items: list[str]
    outcomes: list[Outcome]
    counts: list[int]  # pictures of each video that has any
    pictures: "Uploaded"  # uint8 [sum of counts, S, S, 3]


@dataclass(kw_only=True, eq=False)
class VideoEmbeddings(Embedding):
    """Embeds the frames of each video, pictures of several videos in one batch; padding is never computed.

    A video whose frames failed is passed on as failed, for the same reason.
    """

    name: ClassVar[str] = "video_embeddings"
    version: ClassVar[int] = 1

    max_frames: int
    batch_frames: int = unkeyed(256)

    @property
    def schema(self) -> pa.Schema:
        return schemas.video_embeddings(self.model.size.embed_dim)

    @property
    def chunk(self) -> int:
        return max(1, self.batch_frames // self.max_frames)

    def params(self) -> dict[str, Any]:
        return {**super().params(), "model": self.model.video_params()}

    def setup(self) -> None:
        super().setup()
        from clip2video_pipe.models.upload import Uploader

        self._upload = Uploader(self._model.device)
        self._batches = Batches(self.chunk)

    def load(self, table: pa.Table) -> Loaded:
        pixels, counts = pixels_of(table["pictures"].combine_chunks().drop_null(), self.model.size.image_size)
        return Loaded(table["item"].to_pylist(), outcomes_of(table), counts, self._upload(pixels))

    def process(self, loaded: Loaded) -> pa.Table:
        point("embed")
        ok = np.array([outcome.status == schemas.OK for outcome in loaded.outcomes], dtype=bool)
        columns: dict[str, Any] = {}
        if loaded.counts:
            columns = embedding_columns(ok, *self._embed(loaded))
            columns["frames"] = scatter(ok, np.array(loaded.counts, dtype=np.int32), pa.int32())
        return outcome_table(self.schema, loaded.items, loaded.outcomes, columns)

    def _embed(self, loaded: Loaded) -> tuple[np.ndarray, np.ndarray | None]:
        import torch

        pictures, counts = loaded.pictures.tensor(), loaded.counts
        bounds = np.concatenate([[0], np.cumsum(counts)])
        with torch.inference_mode():
            parts = self._batches.run(
                len(counts),
                lambda start, stop: self._model.embed_videos(
                    pictures[bounds[start] : bounds[stop]], counts[start:stop], self.max_frames
                ),
            )
        return joined(parts)
