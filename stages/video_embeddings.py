"""frames -> video_embeddings: the global and the aligned vector of each video."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from clip2video_pipe.manifests import schemas
from clip2video_pipe.manifests.shards import Outcome, outcome_table
from clip2video_pipe.stages.base import Stage, unkeyed
from clip2video_pipe.stages.model import ModelSpec

if TYPE_CHECKING:
    from clip2video_pipe.models.clip2video import Clip2Video

COLUMNS = [*schemas.ITEM_COLUMNS, "pictures"]


@dataclass(kw_only=True, eq=False)
class VideoEmbeddings(Stage):
    """Embeds the frames of each video, pictures of several videos in one batch; padding is never computed.

    A video whose frames failed is passed on as failed, for the same reason.
    """

    name: ClassVar[str] = "video_embeddings"
    version: ClassVar[int] = 1
    lane: ClassVar[Literal["task", "actor"]] = "actor"

    model: ModelSpec
    max_frames: int
    precision: str
    batch_frames: int = unkeyed(256)
    device: str = unkeyed("auto")

    @property
    def schema(self) -> pa.Schema:
        return schemas.video_embeddings(self.model.size.embed_dim)

    @property
    def chunk(self) -> int:
        return max(1, self.batch_frames // self.max_frames)

    @property
    def weights(self) -> str:
        return self.model.digest

    def params(self) -> dict[str, Any]:
        return {**super().params(), "model": self.model.video_params()}

    def setup(self) -> None:
        self._model: Clip2Video = self.model.load(self.device)

    def process(self, table: pa.Table) -> pa.Table:
        outcomes = [Outcome(*row) for row in zip(*(table[c].to_pylist() for c in COLUMNS[1:4]), strict=True)]
        ok = np.array([outcome.status == schemas.OK for outcome in outcomes], dtype=bool)
        frames = table["pictures"].combine_chunks().filter(pa.array(ok))
        counts = frames.value_lengths().to_pylist()
        columns: dict[str, Any] = {}
        if counts:
            columns = embedding_columns(ok, *self._embed(frames, counts))
            columns["frames"] = scatter(ok, np.array(counts, dtype=np.int32), pa.int32())
        return outcome_table(self.schema, table["item"].to_pylist(), outcomes, columns)

    def _embed(self, frames: pa.ListArray, counts: list[int]) -> tuple[np.ndarray, np.ndarray | None]:
        import torch

        size = self.model.size.image_size
        picture = size * size * 3
        flat = frames.flatten()
        pixels = np.frombuffer(flat.buffers()[1], np.uint8, len(flat) * picture, flat.offset * picture)
        with torch.inference_mode():
            pictures = torch.tensor(pixels.reshape(-1, size, size, 3), device=self._model.device)
            vectors, aligned = self._model.embed_videos(pictures, counts, self.max_frames)
        return vectors.cpu().numpy(), None if aligned is None else aligned.cpu().numpy()


def embedding_columns(ok: np.ndarray, vectors: np.ndarray, aligned: np.ndarray | None) -> dict[str, pa.Array]:
    """`global` and `aligned` columns: float32 [n, D] rows go where `ok` (bool, all rows) is true, nulls elsewhere."""
    width = pa.list_(pa.float32(), vectors.shape[1])
    columns = {"global": scatter(ok, vectors, width)}
    if aligned is not None:
        columns["aligned"] = scatter(ok, aligned, width)
    return columns


def scatter(ok: np.ndarray, values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """An array of `kind` as long as `ok`, with `values` where it is true and nulls elsewhere."""
    rows: pa.Array = pa.array(values.reshape(-1), values.dtype.name)
    if pa.types.is_fixed_size_list(kind):
        rows = pa.FixedSizeListArray.from_arrays(rows, kind.list_size)
    # Position of each row among the values; null where there is none, which `take` keeps.
    where = pa.array(np.cumsum(ok) - 1, mask=~ok)
    return rows.take(where).cast(kind)
