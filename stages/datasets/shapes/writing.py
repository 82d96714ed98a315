"""Scenes as files: H.264 clips, and tables of their captions."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from clip2video_pipe.stages.datasets.shapes.drawing import Picture, Scene, draw_clip
from clip2video_pipe.stages.datasets.shapes.scenes import KINDS, MOMENTS, Told, scenes, split_scenes, still_captions

LOOKS = 2  # raised when the same scene is drawn otherwise, so that older clips are not taken for it
FPS = 10  # of the splits' clips
PICTURES = 2 * MOMENTS - 1  # of such a clip: every second one is a moment, the first and the last among them
SIDE = 128  # pixels


def write_clips(
    folder: Path,
    count: int = 24,
    seed: int = 0,
    *,
    seconds: float = 4.0,
    size: tuple[int, int] = (320, 240),
    fps: int = 25,
) -> Path:
    """Write `count` H.264 clips of `size` (width, height) and, last, `clips.jsonl`; gives the path of that.

    The same arguments give the same frames. Safe to run twice: a clip appears whole or not at all, and one that is
    there is left alone. Raises ValueError for what cannot be encoded.
    """
    width, height = size
    frames = round(seconds * fps)
    if min(width, height) < 32 or width % 2 or height % 2 or frames < 1 or fps < 1:
        raise ValueError(
            f"size {width} x {height}, {seconds} s at {fps} fps: "
            "sides have to be even and at least 32, and there has to be a frame"
        )
    found = scenes(count, seed)
    names = _write(folder, found, frames, width, height, fps)
    rows = ({"video": name, "captions": told.captions} for name, told in zip(names, found, strict=True))
    return _write_table(folder / "clips.jsonl", rows)


def write_splits(folder: Path, seed: int = 0, *, train: int = 0, val: int = 0, test: int = 0) -> list[Path]:
    """Write clips to train, validate and test on, of two seconds, with a table of each; gives the tables.

    Beside `train.jsonl` and `val.jsonl` there are `train-stills.jsonl` and `val-stills.jsonl`: moments of the same
    clips, with captions of what is seen then, for a CLIP that has yet to learn to see. The same arguments give the same
    frames. Raises ValueError for more clips than there are.
    """
    tables = []
    for split, found in split_scenes(train, val, test, seed).items():
        if not found:
            continue
        names = _write(folder, found, PICTURES, SIDE, SIDE, FPS)
        rows = [{"video": name, "captions": told.captions} for name, told in zip(names, found, strict=True)]
        if split != "test":
            random = np.random.default_rng([seed, len(found)])
            _write_table(folder / f"{split}-stills.jsonl", _stills(names, found, random))
        tables.append(_write_table(folder / f"{split}.jsonl", rows))
        if split == "test":
            _write_table(folder / "test-pairs.jsonl", _pairs(names, found))
    return tables


def _pairs(names: Sequence[str], found: Sequence[Told]) -> Iterator[dict[str, str]]:
    """Neighbours whose motions are each other's reverse."""
    for (one, first), (other, second) in pairwise(zip(names, found, strict=True)):
        if (first.scene.motion, second.scene.motion) in KINDS:
            yield {"video": one, "other": other}


def _stills(names: Sequence[str], found: Sequence[Told], random: np.random.Generator) -> Iterator[dict[str, Any]]:
    for name, told in zip(names, found, strict=True):
        for moment, caption in still_captions(told.scene, random):
            start = 2 * moment / FPS
            yield {"video": name, "start": start, "end": round(start + 1 / FPS, 6), "caption": caption}


def _write(folder: Path, found: Sequence[Told], frames: int, width: int, height: int, fps: int) -> list[str]:
    """The clips that are not there yet; gives the names of all."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for told in found:
        name = _file_name(told.scene, frames, width, height, fps)
        if not (folder / name).exists():
            with _replacing(folder / name) as temporary:
                _encode(temporary, draw_clip(told.scene, frames, width, height), width, height, fps)
        names.append(name)
    return names


def _write_table(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    with _replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _file_name(scene: Scene, frames: int, width: int, height: int, fps: int) -> str:
    """Says what is in the clip, and by the digest all that it was drawn from."""
    content = json.dumps([LOOKS, asdict(scene), frames, width, height, fps], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{scene.colour}-{scene.shape}-{scene.motion}-{digest}.mp4"


class _replacing:
    """A temporary path beside `path`, renamed to it at the end, removed after an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.temporary.replace(self.path)
        else:
            self.temporary.unlink(missing_ok=True)


def _encode(path: Path, pictures: Iterator[Picture], width: int, height: int, fps: int) -> None:
    import av

    with av.open(f"file:{path.absolute()}", "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # One thread: the same bits on every machine.
        stream.options = {"crf": "18", "preset": "veryfast", "threads": "1"}
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
