"""Hundreds of broken videos through a run: `make fuzz`. Every file is accounted for, and nothing else is harmed.

Sound clips lie between broken ones. What has to hold at the end: the run ended by itself; each file has one row; each
sound one is `ok`; each failed row has a known class and a message of one line; no process and no file is left behind.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq

MEDIA = Path(__file__).parents[3] / "shared" / "media"
MARK = "CLIP2VIDEO_FUZZ"  # in the environment of every process that the run starts
HANG = 3600  # seconds: then the run hangs
SECONDS = 20  # that a video may take
CODECS = [
    ("libx264", "mp4", "yuv420p"),
    ("libx264", "ts", "yuv420p"),
    ("libx265", "mp4", "yuv420p10le"),
    ("libvpx", "webm", "yuv420p"),
    ("libvpx-vp9", "webm", "yuv420p"),
    ("libsvtav1", "mkv", "yuv420p"),
    ("mpeg4", "avi", "yuv420p"),
    ("mpeg2video", "ts", "yuv420p"),
    ("mjpeg", "mov", "yuvj420p"),
    ("gif", "gif", "rgb8"),
]
OPTIONS = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"preset": "12"}}


def clip(path: Path, codec: str, pix_fmt: str, seed: int) -> Path:
    """A second of noise that moves."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 255, (160, 160, 3), np.uint8)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, options=OPTIONS.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt = 96, 72, pix_fmt
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(noise[number : number + 72, number : number + 96]))
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def flipped(data: bytearray, rng: random.Random, others: list[bytes]) -> bytes:
    for _ in range(rng.choice([1, 3, 20, 200])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(data: bytearray, rng: random.Random, others: list[bytes]) -> bytes:
    return bytes(data[: rng.randrange(1, len(data))])


def zeroed(data: bytearray, rng: random.Random, others: list[bytes]) -> bytes:
    start = rng.randrange(len(data))
    length = min(len(data) - start, rng.choice([16, 256, 4096]))
    data[start : start + length] = bytes(length)
    return bytes(data)


def swapped(data: bytearray, rng: random.Random, others: list[bytes]) -> bytes:
    """The header of another file."""
    other, length = rng.choice(others), rng.choice([32, 256, 1024])
    return other[:length] + bytes(data[length:])


BREAKS = [flipped, cut, zeroed, swapped]


def write_corpus(folder: Path, count: int, seed: int) -> set[str]:
    """Broken files, and between them sound ones: their names."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        made = [
            clip(Path(scratch) / f"{n}.{suffix}", codec, pix_fmt, seed + n)
            for n, (codec, suffix, pix_fmt) in enumerate(CODECS)
        ]
        real = sorted(path for path in MEDIA.glob("*") if path.suffix in (".mp4", ".mkv", ".mov"))
        if not real:
            print(f"no real clips at {MEDIA}: made ones alone")
        bases = [(path.suffix, path.read_bytes()) for path in (*made, *real)]
        sound = set()
        every = max(1, count // len(made))
        for number in range(count):
            suffix, data = rng.choice(bases)
            broken = rng.choice(BREAKS)(bytearray(data), rng, [other for _, other in bases])
            (folder / f"{number:05d} broken{suffix}").write_bytes(broken)
            if number % every == 0 and made:
                path = made.pop()
                name = f"{number:05d} sound{path.suffix}"
                (folder / name).write_bytes(path.read_bytes())
                sound.add(name)
    return sound


def alive(mark: str) -> list[str]:
    """Command lines of the processes that the run left."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def check(count: int, seed: int, engine: str) -> list[str]:
    """What does not hold."""
    with tempfile.TemporaryDirectory() as name:
        folder, scratch, store = (Path(name) / part for part in ("clips", "scratch", "store"))
        folder.mkdir()
        scratch.mkdir()
        sound = write_corpus(folder, count, seed)
        files = {path.name for path in folder.iterdir()}
        config = Path(name) / "fuzz.yaml"
        config.write_text(
            f"name: fuzz\nstore: {store}\ndataset: {{kind: folder, path: {folder}}}\nmodel: {{preset: tiny, seed: 0}}\n"
            f"run: {{engine: {engine}, max_failure_rate: 1, decode_timeout: {SECONDS}, decode_memory: 1GB}}\n"
        )
        mark = uuid.uuid4().hex
        command = [sys.executable, "-m", "clip2video_pipe.pipeline.cli", "run", str(config), "--json"]
        environment = {**os.environ, MARK: mark}
        if engine == "inline":  # Ray keeps its session's folder
            environment["TMPDIR"] = str(scratch)
        began = time.time()
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=HANG, check=False)
        except subprocess.TimeoutExpired:
            return [f"the run hangs: {alive(mark)}"]
        if done.returncode:
            return [f"the run ended with {done.returncode}: {done.stderr[-2000:]}"]
        said = json.loads(done.stdout)
        videos = said["metrics"]["coverage"]["videos"]
        print(f"{len(files)} files in {time.time() - began:.0f} s: {videos['ok']} ok, {videos['errors']}")
        print(f"of those that are ok: {said['metrics']['coverage']['decoding']}")
        rows = pq.read_table(f"{said['run_dir']}/missing.parquet").to_pylist()
        failed = [row["id"] for row in rows if row["what"] == "video"]
        problems = [f"a sound neighbour was lost: {name}" for name in sorted(sound & set(failed))]
        if videos["asked"] != len(files) or videos["ok"] + len(failed) != len(files) or not files.issuperset(failed):
            twice = Counter(failed).most_common(1)
            problems.append(f"{len(files)} files, {videos['ok']} ok, {len(failed)} failed: {twice}")
        problems += [f"{row['id']}: a message of several lines" for row in rows if "\n" in (row["message"] or "\n")]
        time.sleep(1)
        problems += [f"a process is left: {line}" for line in alive(mark)]
        left = [*scratch.rglob("*"), *store.rglob(".*")]
        problems += [f"a file is left: {path}" for path in left]
        return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=500, help="how many broken files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", default="inline", choices=["inline", "ray"])
    given = parser.parse_args()
    problems = check(given.files, given.seed, given.engine)
    print("\n".join(problems) or "every file is accounted for")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
