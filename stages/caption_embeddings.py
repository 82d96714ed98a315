"""captions -> caption_embeddings: the global and the aligned vector of each caption."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from clip2video_pipe.manifests import schemas
from clip2video_pipe.manifests.shards import Outcome, outcome_table
from clip2video_pipe.stages.base import Stage, unkeyed
from clip2video_pipe.stages.model import ModelSpec
from clip2video_pipe.stages.video_embeddings import embedding_columns

if TYPE_CHECKING:
    from clip2video_pipe.models.clip2video import Clip2Video

SOURCE = pa.schema([pa.field("item", pa.string()), pa.field("text", pa.string())])


@dataclass(kw_only=True, eq=False)
class CaptionEmbeddings(Stage):
    """Embeds cleaned captions, cut to `max_words` tokens. Reads SOURCE rows: the item key and the text."""

    name: ClassVar[str] = "caption_embeddings"
    version: ClassVar[int] = 1
    lane: ClassVar[Literal["task", "actor"]] = "actor"

    model: ModelSpec
    max_words: int
    precision: str
    device: str = unkeyed("auto")

    @property
    def schema(self) -> pa.Schema:
        return schemas.caption_embeddings(self.model.size.embed_dim)

    @property
    def chunk(self) -> int:
        return 256

    @property
    def weights(self) -> str:
        return self.model.digest

    def params(self) -> dict[str, Any]:
        return {**super().params(), "model": self.model.alignment_params()}

    def setup(self) -> None:
        from clip2video_pipe.models.text import Tokenizer

        self._model: Clip2Video = self.model.load(self.device)
        self._tokenizer = Tokenizer(self.model.size.vocab_size)

    def process(self, table: pa.Table) -> pa.Table:
        import torch

        ids, mask = self._tokenizer.batch(table["text"].to_pylist(), self.max_words)
        device = self._model.device
        with torch.inference_mode():
            vectors, aligned = self._model.embed_captions(
                torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
            )
        everywhere = np.ones(table.num_rows, dtype=bool)
        columns = embedding_columns(
            everywhere, vectors.cpu().numpy(), None if aligned is None else aligned.cpu().numpy()
        )
        columns["words"] = pa.array(mask.sum(axis=1), pa.int32())
        columns["scale"] = pa.array([self._model.scale] * table.num_rows, pa.float32())
        return outcome_table(self.schema, table["item"].to_pylist(), [Outcome(schemas.OK)] * table.num_rows, columns)
