"""Runs side by side: their metrics, the difference to the first, and whether R@1 differs by more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clip2video_pipe.manifests.schemas import RANKS
from clip2video_pipe.manifests.store import Store, StoreError
from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.events import RUNS
from clip2video_pipe.pipeline.plan import open_store
from clip2video_pipe.stages.metrics import paired_bootstrap

FIGURES = ("R@1", "R@5", "R@10", "R@50", "R@100", "MedianR", "MeanR", "MRR", "rsum", "queries")


@dataclass(frozen=True, eq=False)
class Scored:
    """A finished run with scores."""

    name: str
    path: str
    metrics: Mapping[str, Any]
    ranks: pa.Table  # of RANKS


def compare(runs: Sequence[str]) -> dict[str, Any]:
    """`runs` (name and path of each) and `directions`: of each the figures of all runs that have it.

    A direction's `figures` are lists, one value a run; `against_first` says of each further run the queries that it
    shares with the first and those that only one of them has, and the p-value of the difference in R@1 over the shared
    ones (null where there are none). Raises RequestError.
    """
    found = [find_run(run) for run in runs]
    if len(found) < 2:
        raise RequestError("compare: one run is nothing to compare; give two or more")
    if len({run.path for run in found}) < len(found):
        raise RequestError("compare: the same run twice; give different ones")
    directions = [d for d in found[0].metrics if d != "coverage" and any(d in run.metrics for run in found[1:])]
    if not directions:
        raise RequestError(f"compare: {found[0].name} shares no direction with the others")
    return {
        "runs": [{"name": name, "path": run.path} for name, run in zip(_labels(found), found, strict=True)],
        "directions": {
            direction: {
                "figures": {
                    name: [run.metrics.get(direction, {}).get(name) for run in found]
                    for name in FIGURES
                    if name in found[0].metrics[direction]
                },
                "against_first": [_paired(direction, found[0], run) for run in found[1:]],
            }
            for direction in directions
        },
    }


def find_run(run: str) -> Scored:
    """The run in a folder, or the last finished one of a config file. Raises RequestError."""
    if Path(run).is_file():
        config = load_config(Path(run), files=False)
        store = open_store(config)
        for stamp in reversed(store.folders(RUNS, config.name)):
            if store.read_json(RUNS, config.name, stamp, "run.json") is not None:
                return _read(store, config.name, (RUNS, config.name, stamp))
        raise RequestError(f"compare: no finished run of {run!r} in {store.path()!r}; start one first")
    if "://" not in run and not Path(run).is_dir():
        raise RequestError(f"compare: {run!r} is neither a run's folder nor a config file")
    try:
        store = Store(run)
        store.reach()
    except StoreError as error:
        raise RequestError(f"compare: {error}") from error
    config = store.read_json("config.json")
    name = config.get("name") if isinstance(config, dict) else None
    return _read(store, str(name or run), ())


def _read(store: Store, name: str, parts: tuple[str, ...]) -> Scored:
    path = store.path(*parts)
    metrics = store.read_json(*parts, "metrics.json")
    if not isinstance(metrics, dict):
        raise RequestError(f"compare: {path!r} is no finished run: it has no metrics.json")
    try:
        with store.open(*parts, "ranks.parquet") as file:
            ranks = pq.read_table(file, schema=RANKS)
    except FileNotFoundError as error:
        raise RequestError(f"compare: {path!r} has no ranks.parquet: its dataset has no captions") from error
    except (OSError, pa.ArrowException) as error:
        raise RequestError(f"compare: {path!r}: ranks.parquet cannot be read: {error}") from error
    return Scored(name, path, metrics, ranks)


def _labels(runs: Sequence[Scored]) -> list[str]:
    """Names, with the time of the run where two have the same."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [f"{run.name} {run.path.rstrip('/').rpartition('/')[2].partition('.')[0]}" for run in runs]


def _paired(direction: str, first: Scored, other: Scored) -> dict[str, Any]:
    """Queries are the same where their id and their video are."""
    ours, theirs = _hits(direction, first), _hits(direction, other)
    shared = sorted(ours.keys() & theirs.keys())
    here, there = (np.array([side[query] for query in shared], bool) for side in (ours, theirs))
    _, groups = np.unique([video for _, video in shared], return_inverse=True)
    return {
        "shared": len(shared),
        "only_in_first": len(ours) - len(shared),
        "only_in_other": len(theirs) - len(shared),
        "p": paired_bootstrap(there, here, groups) if shared else None,
    }


def _hits(direction: str, run: Scored) -> dict[tuple[str, str], bool]:
    """Whether each query's rank is 1, by its id and its video."""
    rows = run.ranks.filter(pc.equal(run.ranks["direction"], direction))
    queries = zip(rows["query_id"].to_pylist(), rows["video_id"].to_pylist(), strict=True)
    return dict(zip(queries, pc.less_equal(rows["rank"], 1.0).to_pylist(), strict=True))
