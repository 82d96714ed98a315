"""FAISS: a file for each state, named anew, so that the one before it stays whole."""

import uuid
from pathlib import Path
from typing import Any

from clip2video_pipe.pipeline.indexes.base import FLAT, Blocks, Index, Shape, parts, probes
from clip2video_pipe.stages.vectors import Floats, Positions

SUFFIX = ".faiss"


class Faiss:
    """Flat for few vectors, else an inverted file of vectors with eight bits a dimension."""

    def __init__(self) -> None:
        import faiss

        self._faiss: Any = faiss

    def build(self, folder: Path, blocks: Blocks, shape: Shape) -> Any:
        learnt = shape.sample() if shape.count >= FLAT else None
        flat = learnt is None or len(learnt) < parts(shape.count)  # most of them are not finite
        made = "IDMap2,Flat" if flat else f"IVF{parts(shape.count)},SQ8"
        index = self._faiss.index_factory(shape.width, made, self._faiss.METRIC_INNER_PRODUCT)
        if not flat:
            index.train(learnt)
        return self._fill(folder, index, blocks)

    def add(self, folder: Path, state: Any, blocks: Blocks) -> Any:
        return self._fill(folder, self._faiss.read_index(str(folder / state)), blocks)

    def _fill(self, folder: Path, index: Any, blocks: Blocks) -> str:
        for block in blocks:
            index.add_with_ids(block.vectors, block.ids)
        name = uuid.uuid4().hex + SUFFIX
        self._faiss.write_index(index, str(folder / name))
        return name

    def tidy(self, folder: Path, state: Any) -> None:
        for file in folder.glob(f"*{SUFFIX}"):
            if file.name != state:
                file.unlink(missing_ok=True)

    def open(self, folder: Path, state: Any, count: int) -> Index:
        return _Opened(self._faiss.read_index(str(folder / state)), count)


class _Opened:
    def __init__(self, index: Any, count: int) -> None:
        self._index, self._count = index, count

    def candidates(self, query: Floats, count: int) -> Positions:
        if hasattr(self._index, "nprobe"):
            self._index.nprobe = probes(self._count, count)
        _, [ids] = self._index.search(query[None], min(count, self._count))
        found: Positions = ids[ids >= 0]
        return found
