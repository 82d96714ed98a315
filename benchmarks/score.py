"""How fast scores are computed, as ratios: `make bench-score`. Made-up vectors of the model's width; some minutes."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from benchmarks.ratios import Ratio, conclude, seconds
from clip2video_pipe.manifests import schemas
from clip2video_pipe.manifests.manifest import StageIdentity, commit
from clip2video_pipe.manifests.places import Places
from clip2video_pipe.manifests.schemas import OK
from clip2video_pipe.manifests.shards import Outcome, ShardWriter, outcome_table
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.models.presets import PRESETS, Variant
from clip2video_pipe.models.weights import load_model
from clip2video_pipe.pipeline.worker import Given, run_unit
from clip2video_pipe.stages import ranking
from clip2video_pipe.stages.embedding import embedding_columns
from clip2video_pipe.stages.entrants import entrants
from clip2video_pipe.stages.scoring import SOURCE
from clip2video_pipe.stages.similarity import Similarity

HALF = 512  # of a vector of 1,024 floats: global and aligned
UNIT = 1024  # queries of a shard, as a run makes them
BATCH = 64  # videos and captions of the original's pairs of batches
LIMIT = 3.0  # GB


class Corpus(NamedTuple):
    """Manifests of made-up vectors in a store."""

    videos: int
    hashes: dict[str, str]
    digest: str


def make_corpus(store: Store, videos: int, each: int) -> Corpus:
    """`videos` videos with `each` captions, listed and embedded."""
    rng = np.random.default_rng(0)
    names = [f"video{n}" for n in range(videos)]
    listed = _write(
        store, "videos", schemas.VIDEOS, names, lambda part: {"video_id": part, "video": [f"v-{i}" for i in part]}
    )
    texts = [f"{name}#{n}" for name in names for n in range(each)]
    captions = _write(
        store,
        "captions",
        schemas.CAPTIONS,
        texts,
        lambda part: {
            "caption_id": part,
            "video_id": [i.partition("#")[0] for i in part],
            "caption": [f"c-{i}" for i in part],
            "text": ["words"] * len(part),
        },
    )

    def vectors(count: int) -> dict[str, pa.Array]:
        both = [rng.standard_normal((count, HALF), dtype=np.float32) for _ in range(2)]
        return embedding_columns(np.ones(count, bool), *(b / np.linalg.norm(b, axis=1, keepdims=True) for b in both))

    found = {
        "videos": listed,
        "captions": captions,
        "video_embeddings": _write(
            store,
            "video_embeddings",
            schemas.video_embeddings(HALF),
            [f"v-{i}" for i in names],
            lambda part: vectors(len(part)) | {"frames": [12] * len(part)},
        ),
        "caption_embeddings": _write(
            store,
            "caption_embeddings",
            schemas.caption_embeddings(HALF),
            [f"c-{i}" for i in texts],
            lambda part: vectors(len(part)) | {"words": [9] * len(part), "scale": [100.0] * len(part)},
        ),
    }
    tables = {name: manifest.table() for name, manifest in found.items() if name in ("videos", "captions")}
    outcomes = [found[f"{n}_embeddings"].items.select(schemas.ITEM_COLUMNS) for n in ("video", "caption")]
    who = entrants(tables["videos"], tables["captions"], *outcomes)
    return Corpus(videos, {name: manifest.hash for name, manifest in found.items()}, who.digest)


def _write(store, stage, schema, items, columns):  # type: ignore[no-untyped-def]
    identity = StageIdentity(stage, 1, {}, {})
    places = Places()
    for start in range(0, len(items), 8 * UNIT):
        part = items[start : start + 8 * UNIT]
        with ShardWriter(store, stage, identity.key, part, schema) as writer:
            table = outcome_table(schema, part, [Outcome(OK)] * len(part), columns(part))
            for row in range(0, len(part), UNIT):
                writer.write(table.slice(row, UNIT))
        places.add(writer.shard, part)
    return commit(store, identity, items, places)


def stage_of(store: Store, corpus: Corpus, **settings: object) -> Similarity:
    stage = Similarity(
        entrants=corpus.digest,
        center_weight=0.5,
        top_k=10,
        store=store,
        manifests=corpus.hashes,
        videos=corpus.videos,
        **{"save_matrix": True, **settings},  # type: ignore[arg-type]
    )
    stage.use_threads(len(os.sched_getaffinity(0)))
    return stage


def score(store: Store, stage: Similarity, items: list[str]) -> float:
    """Seconds of setup and of all units, reading and writing included, as an actor runs them: two in hand."""
    turn = threading.Lock()

    def run(first: int) -> None:
        part = items[first : first + UNIT]
        run_unit(store, stage, part, Given(pa.table({"item": part}, SOURCE)), turn)

    start = time.perf_counter()
    stage.setup()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(0, len(items), UNIT)))
    return time.perf_counter() - start


def queries(videos: int, each: int) -> list[str]:
    """In the order of a run: each video's captions, videos by key; then the videos."""
    names = sorted(f"video{n}" for n in range(videos))
    return [f"{name}#{n}" for name in names for n in range(each)] + names


def product_share(store: Store) -> Ratio:
    corpus = make_corpus(store, 2990, 20)
    plain, spent = ranking.product, [0.0]

    def timed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        found = plain(a, b)
        spent[0] += time.perf_counter() - start
        return found

    ranking.product = timed
    try:
        taken = score(store, stage_of(store, corpus), queries(2990, 20))
    finally:
        ranking.product = plain
    detail = f"{spent[0]:.1f} of {taken:.1f} s, both directions, the matrix written"
    return Ratio("matrix products' share of the similarity stage, 59,800 x 2,990", spent[0] / taken, 0.6, detail=detail)


def over_the_original(store: Store) -> Ratio:
    """The original runs its temporal model on both sides of every pair of batches; here one such block is timed."""
    corpus = make_corpus(store, 1500, 10)
    ours = score(store, stage_of(store, corpus), queries(1500, 10))
    model = load_model(PRESETS["vit-b-32"], Variant(), clip=None, checkpoint=None, seed=0).eval()
    frames, mask = torch.randn(BATCH, 12, HALF), torch.ones(BATCH, 12, dtype=torch.bool)
    with torch.inference_mode():
        [block] = seconds(lambda: model.video_vectors(frames, mask), repeats=3)
    blocks = -(-1500 // BATCH) * -(-15000 // BATCH)
    # Ours runs the model once for each video, in another stage: that is not in its seconds.
    detail = f"{blocks} blocks of {block * 1000:.0f} ms and {ours:.2f} s"
    return Ratio("similarity stage over the original's way, 1,500 x 15,000", block * blocks / ours, 1000, detail=detail)


def at_any_size(folder: str) -> Ratio:
    """1,000,000 captions x 100,000 videos: a worker of its own scores a slice, and tells its peak memory."""
    store = Store(folder)
    corpus = make_corpus(store, 100_000, 10)
    command = [sys.executable, "-m", "benchmarks.score", folder, json.dumps(corpus)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    said = json.loads(done.stdout)
    for direction, (count, taken, total) in said["slices"].items():
        slope = taken / count
        print(
            f"{direction}: {count} queries in {taken:.1f} s, {1000 * slope:.2f} ms each, "
            f"all {total:,} in {total * slope / 60:.0f} min"
        )
    detail = f"setup {said['setup']:.0f} s; before and after the slice {said['before']:.2f} and {said['peak']:.2f} GB"
    return Ratio("GB at most, 1,000,000 x 100,000", said["peak"], LIMIT, at_most=True, detail=detail)


def score_a_slice(folder: str, corpus: Corpus) -> None:
    store = Store(folder)
    stage = stage_of(store, corpus, save_matrix=False)
    start = time.perf_counter()
    stage.setup()
    setup, before = time.perf_counter() - start, _peak()
    names = sorted(f"video{n}" for n in range(corpus.videos))
    texts = [f"{name}#{n}" for name in names[:200] for n in range(10)]
    slices = {}
    for direction, items, total in (("text_to_video", texts, 1_000_000), ("video_to_text", names[:1024], 100_000)):
        start = time.perf_counter()
        run_unit(store, stage, items, Given(pa.table({"item": items}, SOURCE)))
        slices[direction] = (len(items), time.perf_counter() - start, total)
    print(json.dumps({"setup": setup, "before": before, "peak": _peak(), "slices": slices}))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    if len(sys.argv) > 1:
        score_a_slice(sys.argv[1], Corpus(*json.loads(sys.argv[2])))
        return
    with tempfile.TemporaryDirectory() as folder:
        stores = [str(Path(folder) / name) for name in "abc"]
        ratios = [product_share(Store(stores[0])), over_the_original(Store(stores[1])), at_any_size(stores[2])]
    conclude(ratios)


if __name__ == "__main__":
    main()
