"""captions -> caption_embeddings: the global and the aligned vector of each caption."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from clip2video_pipe.manifests import schemas
from clip2video_pipe.manifests.shards import Outcome, outcome_table
from clip2video_pipe.stages.batches import Batches, by_length
from clip2video_pipe.stages.embedding import Embedding, embedding_columns, joined

SOURCE = pa.schema([pa.field("item", pa.string()), pa.field("text", pa.string())])
TOKENS = 4096  # of a batch, about: enough to fill a product, few enough to stay in a CPU's cache


@dataclass(kw_only=True, eq=False)
class CaptionEmbeddings(Embedding):
    """Embeds cleaned captions, cut to `max_words` tokens. Reads SOURCE rows: the item key and the text.

    Captions share a batch with others of the same length, rounded up, so that a vector does not depend on the batch.
    """

    name: ClassVar[str] = "caption_embeddings"
    version: ClassVar[int] = 1
    bulk: ClassVar[int] = 16

    max_words: int

    @property
    def schema(self) -> pa.Schema:
        return schemas.caption_embeddings(self.model.size.embed_dim)

    @property
    def chunk(self) -> int:
        return 4096

    def params(self) -> dict[str, Any]:
        return {**super().params(), "model": self.model.alignment_params()}

    def setup(self) -> None:
        super().setup()
        from clip2video_pipe.models.text import Tokenizer

        self._tokenizer = Tokenizer(self.model.size.vocab_size)
        self._batches = Batches(TOKENS)

    def process(self, loaded: pa.Table) -> pa.Table:
        from clip2video_pipe.models.clip2video import WIDTH_STEP

        ids, mask = self._tokenizer.batch(loaded["text"].to_pylist(), self.max_words)
        words = mask.sum(axis=1)
        groups = by_length(words.tolist(), WIDTH_STEP, TOKENS)
        vectors, aligned = joined([part for group in groups for part in self._embed(ids[group], mask[group])])
        # From the order of the groups back to that of the rows.
        back = np.argsort(np.concatenate(groups))
        everywhere = np.ones(len(words), dtype=bool)
        columns = embedding_columns(everywhere, vectors[back], None if aligned is None else aligned[back])
        columns["words"] = pa.array(words, pa.int32())
        columns["scale"] = pa.array([self._model.scale] * len(words), pa.float32())
        outcomes = [Outcome(schemas.OK)] * len(words)
        return outcome_table(self.schema, loaded["item"].to_pylist(), outcomes, columns)

    def _embed(self, ids: np.ndarray, mask: np.ndarray) -> list[Any]:
        import torch

        device = self._model.device
        with torch.inference_mode():
            return self._batches.run(
                len(ids),
                lambda start, stop: self._model.embed_captions(
                    torch.from_numpy(ids[start:stop]).to(device), torch.from_numpy(mask[start:stop]).to(device)
                ),
            )
