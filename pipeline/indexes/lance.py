"""LanceDB: a table, of which each state is a version, and those before it stay."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clip2video_pipe.pipeline.indexes.base import FLAT, Blocks, Index, Shape, parts, probes
from clip2video_pipe.stages.vectors import Floats, Positions

TABLE = "vectors"
LOOSE = 5  # so many times more vectors than there are outside the index: those outside are looked at one by one


class Lance:
    """No index for few vectors, else an inverted file of vectors with eight bits a dimension."""

    def __init__(self) -> None:
        import lancedb

        self._lancedb: Any = lancedb

    def build(self, folder: Path, blocks: Blocks, shape: Shape) -> Any:
        schema = pa.schema({"id": pa.int64(), "vector": pa.list_(pa.float32(), shape.width)})
        reader = pa.RecordBatchReader.from_batches(schema, _batches(schema, blocks))
        table = self._lancedb.connect(str(folder)).create_table(TABLE, reader, schema=schema)
        _index(table)
        return int(table.version)

    def add(self, folder: Path, state: Any, blocks: Blocks) -> Any:
        table = self._table(folder)
        if table.version != state:  # what one that was killed has added
            table.restore(state)
        schema = table.schema
        table.add(pa.RecordBatchReader.from_batches(schema, _batches(schema, blocks)))
        _index(table)
        return int(table.version)

    def tidy(self, folder: Path, state: Any) -> None:
        """Nothing: `optimize`, which removes old versions, also joins the parts, until a query looks at all of them."""

    def open(self, folder: Path, state: Any, count: int) -> Index:
        table = self._table(folder)
        table.checkout(state)
        return _Opened(table, count)

    def _table(self, folder: Path) -> Any:
        return self._lancedb.connect(str(folder)).open_table(TABLE)


class _Opened:
    def __init__(self, table: Any, count: int) -> None:
        self._table, self._count = table, count

    def candidates(self, query: Floats, count: int) -> Positions:
        search = self._table.search(query, vector_column_name="vector").distance_type("dot")
        search = search.nprobes(probes(self._count, count)).limit(min(count, self._count))
        found = search.select(["id", "_distance"]).to_arrow()["id"].to_numpy()
        return np.asarray(found, np.int64)


def _index(table: Any) -> None:
    """Put the vectors in parts, where there are many that are in none."""
    from lancedb.index import IvfSq

    count = table.count_rows()
    loose = count - sum(table.index_stats(index.name).num_indexed_rows for index in table.list_indices())
    if count >= FLAT and LOOSE * loose > count:
        table.create_index("vector", config=IvfSq(distance_type="dot", num_partitions=parts(count)), replace=True)


def _batches(schema: pa.Schema, blocks: Blocks) -> Any:
    for block in blocks:
        values = pa.array(np.ascontiguousarray(block.vectors).reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(values, block.vectors.shape[1])
        yield pa.RecordBatch.from_arrays([pa.array(block.ids), vectors], schema=schema)
