"""How long a search takes from a cold start: `make bench-search`. Made-up vectors in a real store; a minute."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.ratios import Ratio, conclude, seconds
from benchmarks.scale import long_table
from clip2video_pipe.manifests.schemas import OK
from clip2video_pipe.manifests.shards import Outcome, ShardWriter, outcome_table
from clip2video_pipe.pipeline.config import load_config, public
from clip2video_pipe.pipeline.events import RUNS
from clip2video_pipe.pipeline.plan import Step, make_plan
from clip2video_pipe.pipeline.settings import Config
from clip2video_pipe.stages.embedding import embedding_columns

QUERY = "a woman flips a pancake"
PROGRAM = str(Path(sys.executable).with_name("clip2video-pipe"))

# What one would write without `search`: all vectors by way of `export`, the model in the same process.
OTHER = """\
import sys
from pathlib import Path
import numpy as np
import pyarrow as pa
from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.export import video_vectors
from clip2video_pipe.pipeline.plan import make_plan
from clip2video_pipe.stages.caption_embeddings import SOURCE
from clip2video_pipe.stages.vectors import joined
plan = make_plan(load_config(Path(sys.argv[1])), again=False)
found = video_vectors(plan)
stage = plan.caption_embeddings.stage
stage.setup()
query = joined(stage.process(pa.table({"item": ["q"], "text": [sys.argv[2]]}, SOURCE)), (0.5**0.5, 0.5**0.5))[0]
scores = found.vectors.read(0, len(found.ids)) @ query
for at in np.argsort(-scores, kind="stable")[:5].tolist():
    print(f"{scores[at]:8.3f}  {found.ids['video_id'][at].as_py()}")
"""


def fill(loaded: Config, clusters: int = 0) -> None:
    """Listing, vectors and the end of a run, as a run of the config leaves them.

    The vectors lie in so many clusters; 0: without any order.
    """
    plan = make_plan(loaded, remember=True)
    rng = np.random.default_rng(0)
    _write(plan.videos, plan.listing.videos)
    step, width = plan.video_embeddings, plan.video_embeddings.stage.model.size.embed_dim  # type: ignore[union-attr]
    assert step.stage is not None
    middles = rng.standard_normal((clusters or 1, width), dtype=np.float32) * bool(clusters)
    for start in range(0, len(step.items), loaded.run.shard_items):
        items = step.items[start : start + loaded.run.shard_items]
        member = middles[rng.integers(0, len(middles), len(items))]
        both = [member + rng.standard_normal((len(items), width), dtype=np.float32) for _ in range(2)]
        units = [vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in both]
        columns = embedding_columns(np.ones(len(items), bool), *units) | {"frames": [12] * len(items)}
        _shard(step, outcome_table(step.stage.schema, items, [Outcome(OK)] * len(items), columns), step.stage.chunk)
    parts = (RUNS, loaded.name, "20300101T000000.000000Z")
    plan.store.write_json(public(loaded.model_dump()), *parts, "config.json")
    stages = [{"stage": s.name, "key": s.identity.key, "manifest": s.commit().hash} for s in (plan.videos, step)]
    plan.store.write_json({"stages": stages}, *parts, "run.json")


def _write(step: Step, rows: pa.Table) -> None:
    for start in range(0, len(rows), 1 << 16):
        _shard(step, rows.slice(start, 1 << 16), 1 << 16)


def _shard(step: Step, rows: pa.Table, group: int) -> None:
    items = rows["item"].to_pylist()
    with ShardWriter(step.store, step.name, step.identity.key, items, rows.schema) as writer:
        for first in range(0, len(rows), group):
            writer.write(rows.slice(first, group))
    step.places.add(writer.shard, items)


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--videos", type=int, default=100_000)
    count = words.parse_args().videos
    with tempfile.TemporaryDirectory() as folder:
        config = long_table(Path(folder) / "table", count)
        before = time.perf_counter()
        fill(load_config(config))
        print(f"{count:,} videos made up in {time.perf_counter() - before:.0f} s")
        said: dict[str, str] = {}

        def run(name: str, *command: str) -> None:
            said[name] = subprocess.run(command, capture_output=True, text=True, check=True).stdout

        ours, other = seconds(
            lambda: run("ours", PROGRAM, "search", str(config), QUERY, "-k", "5", "--json"),
            lambda: run("other", sys.executable, "-c", OTHER, str(config), QUERY),
            repeats=5,
        )
        [query] = json.loads(said["ours"])["queries"]
        assert [hit["video_id"] for hit in query["hits"]] == [row.split()[1] for row in said["other"].splitlines()]
        conclude(
            [
                Ratio(f"seconds to search {count:,} videos from a cold start", ours, 1.5, True, "the model included"),
                Ratio("times faster than all vectors through export", other / ours, 2, False, f"{other:.2f} s"),
            ]
        )


if __name__ == "__main__":
    main()
