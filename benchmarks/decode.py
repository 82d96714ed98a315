"""How fast clips are decoded, as ratios on one core: `make bench-decode`. Clips are made, and real ones where they are.

Every alternative gives the same frames as we do, plain PyAV the very same bytes.
"""

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import av
import decord as decord_library
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from benchmarks.ratios import Ratio, conclude, seconds
from clip2video_pipe.stages.decoding import DecodeError, decode, geometry
from clip2video_pipe.stages.decoding.opening import opened
from clip2video_pipe.stages.decoding.pictures import SCALING, matrix_of
from clip2video_pipe.stages.sampling import Sampling

SIZE = 224
SAMPLING = Sampling(policy="reference", grid_fps=5, keep_every=1, max_frames=12)
MEDIA = Path(__file__).parents[2] / "shared" / "media"
VIDEOS = (".mp4", ".mkv", ".mov")
BOUNDS = {"plain PyAV": 1.5, "decord": 1.6, "JPEG files": 4.0}
LONG_BOUND = 6.0
NEVER_BELOW = 0.95

Pictures = list[npt.NDArray[np.uint8]]


class Made(NamedTuple):
    """A generated clip: shots of noise, each under a camera that moves, with a cut after every `shot` seconds."""

    name: str
    seconds: int
    size: tuple[int, int]
    options: dict[str, str]
    shot: int = 10


LONG = "2 min 1080p, a cut every 3 s"
MADE = [
    Made("10 s 640x360", 10, (640, 360), {}),
    Made(LONG, 120, (1920, 1080), {"preset": "veryfast"}, shot=3),
    Made("2 min 1080p, no cut", 120, (1920, 1080), {"preset": "veryfast"}, shot=120),
    Made("10 s 240p all key frames", 10, (426, 240), {"g": "1"}),
]


def make(clip: Made, path: Path, rate: int = 25) -> Path:
    """Write it with x264, its defaults but for the clip's options."""
    width, height = clip.size
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=rate, options=clip.options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(rate * clip.seconds):
            if number % (rate * clip.shot) == 0:
                grain = rng.integers(0, 255, (height // 8 + 40, width // 8 + 40), np.uint8)
                scene = np.asarray(Image.fromarray(grain).resize((width + 320, height + 320), Image.Resampling.BICUBIC))
                planes = np.full((height * 3 // 2, width), rng.integers(60, 200), np.uint8)
            x, y = (int(150 + 150 * f(number / 20)) for f in (math.sin, math.cos))
            planes[:height] = scene[y : y + height, x : x + width]
            frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def shrink(picture: Image.Image) -> npt.NDArray[np.uint8]:
    resized = picture.resize(geometry.resized(*picture.size, SIZE), Image.Resampling.BICUBIC)
    return geometry.center_crop(np.asarray(resized), SIZE)


def plain(path: str, indices: list[int]) -> Pictures:
    """PyAV: decode in order, keep the chosen, stop after the last."""
    found: Pictures = []
    with opened(path) as source:
        for number, frame in enumerate(source.container.decode(source.stream)):
            if number in indices:
                width, height = geometry.resized(frame.width, frame.height, SIZE)
                small = frame.reformat(
                    width,
                    height,
                    "rgb24",
                    src_colorspace=Colorspace.ITU601,
                    dst_colorspace=Colorspace.ITU601,
                    dst_color_range=ColorRange.JPEG,
                    interpolation=SCALING,
                )
                found.append(geometry.center_crop(geometry.shown(small.to_ndarray(), matrix_of(frame)), SIZE))
            if number >= indices[-1]:
                break
    return found


def decord(path: str, indices: list[int]) -> Pictures:
    """decord's `get_batch`, then Pillow. Edit lists it does not know: there its last frame stands for later ones."""
    reader = decord_library.VideoReader(path, num_threads=1)
    frames = reader.get_batch([min(index, len(reader) - 1) for index in indices]).asnumpy()
    return [shrink(Image.fromarray(frame)) for frame in frames]


def jpeg_files(path: str, folder: str) -> Pictures:
    """The original's route: the ffmpeg program writes JPEG files at 5 a second, Pillow reads those that are chosen."""
    for old in Path(folder).glob("*.jpg"):
        old.unlink()
    command = ["ffmpeg", "-v", "error", "-threads", "1", "-i", path, "-r", "5", "-q", "0", f"{folder}/%08d.jpg"]
    subprocess.run(command, check=True)
    files = sorted(Path(folder).glob("*.jpg"))
    chosen = np.linspace(0, len(files) - 1, min(12, len(files)), dtype=int)
    return [shrink(Image.open(files[index]).convert("RGB")) for index in chosen]


def shown_at(path: str) -> list[int]:
    """Which frames, in the order they are shown, the sampling takes; `plain` has to give the same bytes."""
    clip = decode(path, SAMPLING, SIZE)
    with opened(path) as source:
        frames = source.container.decode(source.stream)
        every = np.array([float(frame.pts * source.tick) for frame in frames if frame.pts is not None])
    indices = [int(np.abs(every - every[0] - time).argmin()) for time in clip.times]
    pictures = dict(zip(dict.fromkeys(indices), plain(path, indices), strict=True))
    assert all((pictures[i] == ours).all() for i, ours in zip(indices, clip.pictures, strict=True)), path
    return indices


def measure(paths: list[Path], folder: str) -> list[Ratio]:
    against: dict[str, dict[str, float]] = {name: {} for name in BOUNDS}
    for path in paths:
        name = str(path)
        try:
            indices = shown_at(name)
        except (DecodeError, av.FFmpegError) as error:
            print(f"{path.name}: left out, plain PyAV fails: {str(error).splitlines()[0][:80]}")
            continue
        others: dict[str, Callable[[], object]] = {
            "plain PyAV": lambda name=name, indices=indices: plain(name, indices),  # type: ignore[misc]
            "decord": lambda name=name, indices=indices: decord(name, indices),  # type: ignore[misc]
            "JPEG files": lambda name=name: jpeg_files(name, folder),  # type: ignore[misc]
        }
        others = {what: other for what, other in others.items() if _works(what, other, path)}
        repeats = 1 if path.stat().st_size > 10e6 else 15
        ratios = {}
        for what, other in others.items():  # in pairs: a process that has just run leaves the caches cold
            ours, its = seconds(lambda name=name: decode(name, SAMPLING, SIZE), other, repeats=repeats)  # type: ignore[misc]
            ratios[what] = its / ours
        said = "  ".join(f"{what} {ratio:.2f}" for what, ratio in ratios.items())
        print(f"{path.stem:<28} {1000 * ours:7.1f} ms  {said}", flush=True)
        for what, ratio in ratios.items():
            against[what][path.stem] = ratio
    mean = {what: math.exp(np.mean(np.log(list(found.values())))) for what, found in against.items() if found}
    pyav = against["plain PyAV"]
    worst = min(pyav, key=lambda name: pyav[name])
    return [
        *(
            Ratio(f"over {what}, geometric mean", mean[what], BOUNDS[what], detail=f"{len(against[what])} files")
            for what in mean
        ),
        Ratio("over plain PyAV, the long file", pyav[LONG], LONG_BOUND, detail=LONG),
        Ratio("over plain PyAV, the worst file", pyav[worst], NEVER_BELOW, detail=worst),
    ]


def _works(name: str, other: Callable[[], object], path: Path) -> bool:
    try:
        other()
    except Exception as error:  # what a library cannot open is said, and left out of its mean
        print(f"{path.name}: {name} fails: {str(error).strip().splitlines()[0][:80]}")
        return False
    return True


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    only = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "files"
        files.mkdir()
        real = sorted(path for path in MEDIA.glob("*") if path.suffix in VIDEOS)
        if not real:
            print(f"no real clips at {MEDIA}: generated ones alone")
        paths = [*real, *(make(clip, Path(folder) / f"{clip.name}.mp4") for clip in MADE)]
        conclude(measure([path for path in paths if not only or path.stem in only], str(files)))


if __name__ == "__main__":
    main()
