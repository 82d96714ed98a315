"""Killed, stopped or failed at any named point of its way, a run is finished by the next plain one.

At each point: the tables of the run after it are those of an undisturbed one, row for row; no shard that was finished
is written or computed again; nothing half-written has a name.
"""

import itertools
import re
from collections import Counter

import pyarrow.parquet as pq
import pytest

STAGES = ("videos", "captions", "frames", "video_embeddings", "caption_embeddings", "similarity")
RUN_FILES = ("config.json", "ranks.parquet", "columns.parquet", "missing.parquet", "metrics.json", "run.json")
FILES = [
    "fingerprints.parquet",
    *(f"runs/.*/{name}" for name in RUN_FILES),
    *(f"{stage}/.*parquet" for stage in STAGES),
    *(f"manifests/{stage}/.*/{name}" for stage in STAGES for name in ("items-.*parquet", "manifest.json")),
]
POINTS = [
    *(f"{when} {file}" for file in FILES for when in ("before", "after")),
    *(f"commit {stage}" for stage in STAGES),
    "plan",
    "decode",
    "embed",
]
# Of the driver's signs of life, which say nothing of what was computed.
ALIVE = r"(before|after) runs/.*/alive.json"


def finished_by_the_next(corpus, undisturbed):
    before, there = corpus.shards(), Counter()
    for path in before:
        there[path.parent.parent.name] += pq.read_metadata(path).num_rows
    result = corpus.run()
    for path, written in before.items():
        assert path.stat().st_mtime_ns == written, "a finished shard was written again"
    for stage, said in result["stages"].items():
        assert said["reused"] == there[stage], f"{stage}: what was finished was computed again"
        assert said["computed"] == said["items"] - there[stage]
    assert corpus.is_as(undisturbed)


@pytest.mark.parametrize("point", POINTS)
def test_killed(corpus, undisturbed, point):
    code, out = corpus.command(chaos=[{"at": f"^{point}$", "do": "kill"}])
    assert code == -9, out
    finished_by_the_next(corpus, undisturbed)


@pytest.mark.parametrize("point", ["before frames/", "after video_embeddings/", "after similarity/", "decode", "embed"])
@pytest.mark.parametrize("nth", [2, 3])
def test_killed_further_on(corpus, undisturbed, point, nth):
    code, out = corpus.command(chaos=[{"at": f"^{point}", "do": "kill", "nth": nth}])
    assert code == -9 or (code, nth, point) in [(0, 2, "after similarity/"), (0, 3, "after similarity/")], out
    finished_by_the_next(corpus, undisturbed)


WRITES = [f"before {file}" for file in FILES[1:]]
SAID = {"ENOSPC": "No space left", "EROFS": "Read-only file system", "EIO": "Input/output error"}


@pytest.mark.parametrize(("point", "fault"), list(zip(WRITES, itertools.cycle(SAID), strict=False)))
def test_a_write_that_fails_is_said_in_a_line(corpus, undisturbed, point, fault):
    code, out = corpus.command(chaos=[{"at": f"^{point}$", "do": fault}])
    assert code in (1, 2), out
    assert "Traceback" not in out
    assert SAID[fault] in out.splitlines()[-1], out
    assert not list(corpus.store.rglob(".*.tmp")), "half-written files are left"
    finished_by_the_next(corpus, undisturbed)


@pytest.mark.parametrize("point", ["decode", "embed", "before frames/", "after manifests/frames/", "plan"])
def test_stopped_by_a_signal(corpus, undisturbed, point):
    code, out = corpus.command(chaos=[{"at": f"^{point}", "do": "stop"}])
    assert code == 130 and "Traceback" not in out, out
    assert "kept" in out
    finished_by_the_next(corpus, undisturbed)


def test_these_are_all_points(corpus, tmp_path):
    """A new point on the way of a run has to be met above."""
    notes = tmp_path / "points"
    assert corpus.command(chaos=[{"at": "", "do": "note", "nth": "every", "file": str(notes)}])[0] == 0
    passed = notes.read_text().splitlines()
    unknown = [name for name in passed if not any(re.fullmatch(point, name) for point in (*POINTS, ALIVE))]
    assert unknown == []
    assert [point for point in POINTS if not any(re.fullmatch(point, name) for name in passed)] == []
