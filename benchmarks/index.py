"""An index against exact search: `make bench-index`. Made-up vectors in a real store; two minutes.

The vectors lie in clusters, as those of videos do: among vectors without any order no index finds neighbours.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ratios import Ratio, conclude, seconds
from benchmarks.scale import long_table
from benchmarks.search import fill
from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.index import CANDIDATES, Opened, Wanted, opened, update
from clip2video_pipe.pipeline.indexes.kinds import KINDS
from clip2video_pipe.pipeline.search import Searcher
from clip2video_pipe.stages.vectors import vector_blocks, vectors_at

NEW = 0.05  # of the vectors come after the index was built
K = 10


def first_shards(wanted: Wanted, part: float) -> Wanted:
    """The same without its last shards."""
    names = list(wanted.runs)
    end = wanted.runs[names[int(part * len(names))]].start
    return Wanted("table", wanted.manifest, wanted.places.slice(0, end), wanted.weight)


def from_elsewhere(wanted: Wanted, index: Opened, count: int = 50) -> float:
    """recall@K of queries that lie near none of the vectors, as texts do where a model was not trained for them."""
    vectors = wanted.vectors(np.arange(len(wanted.places)))
    queries = np.random.default_rng(1).standard_normal((count, vectors.shape[1]), dtype=np.float32)
    best = np.argpartition(-(queries @ vectors.T), K, axis=1)[:, :K]
    found = index.candidates(queries, CANDIDATES * K)
    return float(np.mean([np.isin(row, at).mean() for row, at in zip(best, found, strict=True)]))


def size(said: dict[str, Any]) -> str:
    return f"{said['bytes'] / 1e6:.0f} MB"


def measured(wanted: Wanted, kind: str) -> list[Ratio]:
    few = first_shards(wanted, 1 - NEW)
    built = update(few, kind)
    grown = update(wanted, kind)
    assert built["built"] and not grown["built"]
    begun = time.perf_counter()
    index = opened(wanted)
    opening = time.perf_counter() - begun
    query = wanted.vectors(np.array([7]))

    def by_index() -> None:
        [at] = index.candidates(query, CANDIDATES * K)
        vectors_at(wanted.manifest, wanted.places.take(at), wanted.weights) @ query[0]

    def exactly() -> None:
        for _, block in vector_blocks(wanted.manifest, wanted.places, 4, wanted.weights):
            block @ query[0]

    ours, exact = seconds(by_index, exactly, repeats=3)
    width = query.shape[1]
    elsewhere = from_elsewhere(wanted, index)
    print(f"{kind}: {built['vectors']:,} vectors of {width} built in {built['seconds']:.1f} s, {size(built)}", end=", ")
    print(f"recall@{K} {built['recall']:.3f}; {grown['added']:,} more in {grown['seconds']:.1f} s", end=", then ")
    print(f"{size(grown)}, {grown['recall']:.3f}, of queries from elsewhere {elsewhere:.3f}", end="; ")
    print(f"opened in {opening:.2f} s, a query {1000 * ours:.0f} ms, exactly {1000 * exact:.0f} ms")
    return [
        Ratio(f"{kind}: recall@{K} against exact search", grown["recall"], 0.95, False, f"{wanted.places.num_rows:,}"),
        Ratio(f"{kind}: times faster than exact, opened", exact / ours, 3, False, f"{1000 * ours:.0f} ms"),
        Ratio(f"{kind}: seconds to build / to add", built["seconds"] / grown["seconds"], 2, False, f"{NEW:.0%} new"),
    ]


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--videos", type=int, default=100_000)
    count = words.parse_args().videos
    with tempfile.TemporaryDirectory() as folder:
        config = long_table(Path(folder) / "table", count)
        loaded = load_config(config, ["model.preset=vit-b-32"])
        fill(loaded, clusters=1000)
        searcher = Searcher(loaded)
        wanted = searcher.wanted(searcher.corpus())
        ratios = []
        for kind in KINDS:
            ratios += measured(wanted, kind)
            for file in wanted.folder(kind).glob("*.json"):
                file.unlink()  # the next is what is opened
        conclude(ratios)


if __name__ == "__main__":
    main()
