"""How what carries the work grows with it: `make bench-scale`. A million items that cost nothing to compute; minutes.

Exit code 1 where a figure falls short of `docs/reliability.md`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import made_up
from benchmarks.ratios import Ratio, conclude
from clip2video_pipe.manifests import keys
from clip2video_pipe.manifests.shards import SUFFIX, Shard
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.events import EventLog
from clip2video_pipe.pipeline.plan import make_plan
from clip2video_pipe.pipeline.progress import Reporter
from clip2video_pipe.pipeline.sharing import Sharing
from clip2video_pipe.stages.datasets.shapes import write_clips

WINDOW = 1000  # shards that driver time and memory are looked at over
WARM = 512  # items
CLIPS = 128
DRAWN = 4
FRAMES = 2  # of a clip, its first and its last: then decoding all of it and embedding them take about the same


def driver_memory() -> float:
    """Megabytes that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Watch:
    """A listener that notes this process's core-seconds and memory after each window of finished shards."""

    def __init__(self) -> None:
        self.shards = 0
        self.marks = [(0, time.process_time(), driver_memory())]

    def __call__(self, event: str, **said: Any) -> None:
        if event == "finished":
            self.shards += 1
            if self.shards % WINDOW == 0:
                self.marks.append((self.shards, time.process_time(), driver_memory()))

    def milliseconds(self, first: int, last: int) -> float:
        """Of the driver for a shard, between two marks."""
        return 1000 * (self.marks[last][1] - self.marks[first][1]) / (self.marks[last][0] - self.marks[first][0])


def compute(store: Store, items: list[str], scratch: Store) -> tuple[float, Watch]:
    """Seconds of a run of both stages on Ray, planning, events and commits included.

    Start-up is not: the workers compute a little for the store `scratch` before.
    """
    import ray

    from clip2video_pipe.pipeline.engines.ray_engine import RayEngine

    ray.cloudpickle.register_pickle_by_value(made_up)
    with RayEngine("local") as engine:
        warm = made_up.steps(scratch, made_up.item_keys(WARM))
        engine.run(made_up.schedule(scratch, warm, lambda event, **said: None), scratch)
        began = time.perf_counter()
        watch = Watch()
        run_parts = ("runs", "scale", "1")
        sharing = Sharing(store, run_parts, ())
        with EventLog(store, run_parts) as log, Reporter(Console(quiet=True)) as reporter:

            def listen(event: str, **said: Any) -> None:
                for hear in (log.add, reporter.event, watch):
                    hear(event, **said)

            both = made_up.steps(store, items)
            engine.run(made_up.schedule(store, both, listen, sharing), store)
        seconds = time.perf_counter() - began
    assert all(step.manifest and step.manifest.counts["ok"] == len(items) for step in both)
    return seconds, watch


def in_its_own_process(*words: str) -> dict[str, float]:
    """What a part of this file prints, run by itself, so that its memory is its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", *words], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


TABLE = """\
name: table
dataset: {{kind: table, path: {folder}/rows.jsonl, root: {folder}}}
model: {{preset: tiny, seed: 0}}
store: {folder}/store
"""
FILES = 1000  # that the rows of the table are windows of


def long_table(folder: Path, rows: int) -> Path:
    """Config of a table of windows, each with a caption of its own."""
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number}.mp4").write_bytes(b"%d" % number)
    with (folder / "rows.jsonl").open("w") as table:
        for row in range(rows):
            window, number = divmod(row, FILES)
            said = {"video": f"{number}.mp4", "start": 10.0 * window, "end": 10.0 * window + 10}
            table.write(json.dumps({**said, "caption": f"somebody does thing {row} with a pan"}) + "\n")
    config = folder / "table.yaml"
    config.write_text(TABLE.format(folder=folder))
    return config


def fill(config: str) -> None:
    """Print the seconds of a first plan, and commit manifests of all its items, whose shards are names and no more."""
    before = time.perf_counter()
    found = make_plan(load_config(Path(config)), remember=True)
    print(json.dumps({"seconds": time.perf_counter() - before}))
    for step in found.steps:
        where = (step.name, step.identity.key)
        Path(step.store.path(*where)).mkdir(parents=True)
        for start in range(0, len(step.items), made_up.SHARD_ITEMS):
            items = step.items[start : start + made_up.SHARD_ITEMS]
            name = keys.shard_name(step.identity.key, items)
            Path(step.store.path(*where, name + SUFFIX)).touch()
            stamp = step.store.stamp(*where, name + SUFFIX)
            assert stamp is not None, "it was just made"
            step.places.add(Shard(name, len(items), (), stamp), items)
        step.commit()


def plan(config: str) -> None:
    """Print the seconds and the peak megabytes of a plan whose manifests are all there."""
    before = time.perf_counter()
    found = make_plan(load_config(Path(config)))
    seconds = time.perf_counter() - before
    assert all(step.cached for step in found.steps)
    print(json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}))


def run(folder: str, count: int) -> None:
    """Print the seconds, driver milliseconds a shard and megabytes of a run that brings the store to so many items."""
    with tempfile.TemporaryDirectory() as scratch:
        seconds, watch = compute(Store(folder), made_up.item_keys(count), Store(scratch))
    said = {"seconds": seconds, "shards": watch.shards}
    if len(watch.marks) > 3:
        middle = len(watch.marks) // 2
        said |= {
            "early": watch.milliseconds(1, 2),
            "late": watch.milliseconds(-2, -1),
            "every": watch.milliseconds(1, -1),
            "memory": watch.marks[middle][2],
            "grown": watch.marks[-1][2] - watch.marks[middle][2],
        }
    print(json.dumps(said))


def corpus(folder: Path, items: int) -> list[Ratio]:
    """A corpus of made-up items: computed, planned again, and grown by a hundredth."""
    store = str(folder / "store")
    first = in_its_own_process("--run", store, "--items", str(items))
    table = str(long_table(folder / "table", items))
    anew = in_its_own_process("--fill", table)
    planned = in_its_own_process("--plan", table)
    grown = in_its_own_process("--run", store, "--items", str(items + items // 100))
    shards = f"{first['shards']:.0f} shards in {first['seconds']:.0f} s"
    return [
        Ratio(
            f"seconds to plan {items:,} videos and captions, all there",
            planned["seconds"],
            10,
            True,
            f"the first time {anew['seconds']:.0f}",
        ),
        Ratio("gigabytes of that, at most", planned["peak"] / 1e3, 1.5, True),
        Ratio("ms of the driver for a shard", first["every"], 10, True, shards),
        Ratio("the last thousand shards over the second thousand", first["late"] / first["early"], 1.5, True),
        Ratio(
            "bytes that the driver's memory grew by with an item of a stage, over the second half",
            1e6 * first["grown"] / items,
            100,
            True,
            f"{first['grown']:.0f} of {first['memory']:.0f} MB",
        ),
        Ratio(
            "percent of the first run that a hundredth more costs",
            100 * grown["seconds"] / first["seconds"],
            2,
            True,
            f"{grown['seconds']:.1f} of {first['seconds']:.0f} s",
        ),
    ]


CONFIG = """\
name: overlap
dataset: {{kind: table, path: {clips}/clips.jsonl, root: {clips}}}
model: {{preset: {preset}, seed: 0}}
sampling: {{max_frames: {frames}}}
embed: {{precision: float32}}
run: {{shard_items: 4}}
store: {store}
"""


def many_clips(folder: Path) -> Path:
    """CLIPS files of DRAWN scenes. Drawing takes long, so most differ in nothing but an empty box at the end."""
    table = write_clips(folder, DRAWN, 0, seconds=9.8, size=(1920, 1080))
    rows = []
    for number, row in enumerate(islice(cycle(map(json.loads, table.read_text().splitlines())), CLIPS)):
        copy = folder / f"{number}.mp4"
        box = number.to_bytes(8, "big")
        copy.write_bytes((folder / row["video"]).read_bytes() + (8 + len(box)).to_bytes(4, "big") + b"free" + box)
        rows.append({**row, "video": copy.name})
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def overlap(folder: Path) -> list[Ratio]:
    """Decoding and embedding of generated clips side by side, beside the core-seconds that they take."""
    clips = many_clips(folder / "clips")
    config = folder / "overlap.yaml"
    config.write_text(CONFIG.format(clips=clips, preset="vit-b-32", frames=FRAMES, store=folder / "overlap"))
    command = [sys.executable, "-m", "clip2video_pipe.pipeline.cli", "run", str(config), "--json"]
    began = time.time()
    summary = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    log = Path(summary["run_dir"], "events.jsonl").read_text().splitlines()
    done = [event for event in map(json.loads, log) if event["event"] == "finished"]
    # Until the model is ready to embed is start-up: what was decoded by then does not count on either side.
    ready, end = min(e["began"] for e in done if e["stage"] == "video_embeddings"), max(e["ended"] for e in done)
    spent = Counter[str]()
    for event in done:
        inside = (event["ended"] - max(event["began"], ready)) / max(1e-9, event["ended"] - event["began"])
        spent[event["stage"]] += event["cpu"] * max(0.0, inside)
    decoded = [event["ended"] <= ready for event in done if event["stage"] == "frames"]
    costs = [spent[stage] for stage in ("frames", "video_embeddings")]
    said = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in sorted(spent.items()) if seconds > 0.5)
    return [
        Ratio(
            "wall time of the stages over core-seconds / cores",
            (end - ready) * (os.cpu_count() or 1) / spent.total(),
            1.15,
            True,
            f"{end - ready:.1f} s; core-seconds: {said}; start-up {ready - began:.1f} s",
        ),
        Ratio("share of decoding that is done when embedding begins", sum(decoded) / len(decoded), 0.25, True),
        Ratio("the dearer of decoding and embedding over the other", max(costs) / min(costs), 1.3, True),
    ]


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--items", type=int, default=1_000_000)
    words.add_argument("--fill", metavar="CONFIG", help="one part of it")
    words.add_argument("--plan", metavar="CONFIG", help="one part of it")
    words.add_argument("--run", metavar="STORE", help="one part of it")
    asked = words.parse_args()
    if asked.fill:
        fill(asked.fill)
    elif asked.plan:
        plan(asked.plan)
    elif asked.run:
        run(asked.run, asked.items)
    else:
        with tempfile.TemporaryDirectory() as folder:
            conclude([*overlap(Path(folder)), *corpus(Path(folder), asked.items)])


if __name__ == "__main__":
    main()
