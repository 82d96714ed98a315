"""What the two embedding stages have in common: the model, its settings, and columns of vectors."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from clip2video_pipe.models.precision import Precision
from clip2video_pipe.stages.base import Stage, unkeyed
from clip2video_pipe.stages.model import ModelSpec

if TYPE_CHECKING:
    from clip2video_pipe.models.clip2video import Clip2Video


@dataclass(kw_only=True, eq=False)
class Embedding(Stage):
    """A stage that runs the model."""

    lane: ClassVar[Literal["task", "actor"]] = "actor"

    model: ModelSpec
    precision: Precision
    device: str = unkeyed("auto")
    compiled: bool = unkeyed(False)

    @property
    def wants_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def device_kind(self) -> Literal["cpu", "gpu"]:
        return "cpu" if self._model.device.type == "cpu" else "gpu"

    @property
    def weights(self) -> str:
        return self.model.digest

    def setup(self) -> None:
        self._model: Clip2Video = self.model.load(self.precision, self.device, self.compiled)

    def use_threads(self, count: int) -> None:
        import torch

        torch.set_num_threads(count)


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


def joined(parts: list[Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """float32 [n, D] global and aligned vectors (None without alignment) of batches, on the host."""
    vectors = np.concatenate([part[0].cpu().numpy() for part in parts])
    if parts[0][1] is None:
        return vectors, None
    return vectors, np.concatenate([part[1].cpu().numpy() for part in parts])
