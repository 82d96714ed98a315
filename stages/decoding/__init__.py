"""Decoding: a video file in, a few small pictures out. Each decoder is a file here and a line in DECODERS."""

import math
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from clip2video_pipe.manifests.addresses import is_remote
from clip2video_pipe.stages.decoding.failures import DecodeError, Failure
from clip2video_pipe.stages.sampling import Sampling

__all__ = [
    "DAMAGED",
    "DECODERS",
    "FAILURES",
    "IN_FULL",
    "Clip",
    "DecodeError",
    "Decoder",
    "Failure",
    "decode",
    "decode_segments",
    "find_decoder",
]

# Classes of notes.
DAMAGED = "damaged"
IN_FULL = "decoded in full"

FAILURES: tuple[str, ...] = get_args(Failure)


@dataclass(frozen=True, eq=False)
class Clip:
    """The chosen pictures of a video, or of a segment of it. Raises ValueError where the fields disagree."""

    pictures: npt.NDArray[np.uint8]  # [n, size, size, 3], RGB
    times: npt.NDArray[np.float64]  # [n] seconds from the clip's first frame
    rate: float  # frames a second
    decoded: int  # frames that the clip shows
    lost: int  # packets of it that did not decode
    width: int  # of the video as it is shown (rotated), pixels
    height: int
    in_full: str = ""  # why all of the video was decoded; empty where no more was than the pictures need

    def __post_init__(self) -> None:
        n, size = len(self.times), self.pictures.shape[1] if self.pictures.ndim == 4 else 0
        if self.pictures.shape != (n, size, size, 3) or self.pictures.dtype != np.uint8:
            raise ValueError(
                f"pictures are {self.pictures.dtype} {self.pictures.shape}, not uint8 [{n}, size, size, 3]"
            )
        if self.times.shape != (n,) or self.times.dtype != np.float64:
            raise ValueError(f"times are {self.times.dtype} {self.times.shape}, not float64 [{n}]")
        if not n or not self.rate > 0 or min(self.decoded, self.width, self.height) < 1 or self.lost < 0:
            raise ValueError(
                f"a clip of {n} pictures, {self.rate} frames a second, {self.decoded} decoded, {self.lost} lost, "
                f"{self.width} x {self.height} pixels"
            )

    @property
    def note(self) -> str | None:
        """What is to be said of how it was decoded: `class: text`, or nothing."""
        if self.lost:
            return (
                f"{DAMAGED}: {self.lost} packets did not decode; the frames are chosen from the {self.decoded} that do"
            )
        return f"{IN_FULL}: {self.in_full}" if self.in_full else None


# Path, sampling, size, the segments' starts and ends in seconds, and threads.
Decoder = Callable[[str, Sampling, int, Sequence[tuple[float, float]], int], list[Clip | DecodeError]]

# Modules with a `decode`, imported when first used.
DECODERS = {"av": "clip2video_pipe.stages.decoding.pyav", "decord": "clip2video_pipe.stages.decoding.decord"}


def find_decoder(name: str) -> Decoder:
    """The decoder of that name. Raises ValueError where there is none."""
    if name not in DECODERS:
        raise ValueError(f"decoder {name!r} is not one of {', '.join(DECODERS)}")
    found: Decoder = import_module(DECODERS[name]).decode
    return found


def decode(
    path: str,
    sampling: Sampling,
    size: int,
    *,
    start: float | None = None,
    end: float | None = None,
    decoder: str = "av",
) -> Clip:
    """The pictures that `sampling` chooses of a video, `size` pixels square (reference 1 to 3).

    `start` and `end` are seconds from the video's first frame; frames with start <= time < end are the clip, and
    it is sampled as if it were a file of its own. Raises DecodeError for what is wrong with the video, ValueError
    for arguments that fit no video.
    """
    [clip] = decode_segments(path, sampling, size, [(start, end)], decoder=decoder)
    if isinstance(clip, DecodeError):
        raise clip
    return clip


def decode_segments(
    path: str,
    sampling: Sampling,
    size: int,
    segments: Sequence[tuple[float | None, float | None]],
    *,
    decoder: str = "av",
    threads: int = 1,
) -> list[Clip | DecodeError]:
    """`decode` of several segments of one video, in one pass over the file; they may overlap.

    What is wrong with one segment is in its place. Raises DecodeError for what is wrong with all of the file.
    """
    bounds = [(start or 0.0, math.inf if end is None else end) for start, end in segments]
    for first, beyond in bounds:
        if size < 1 or not 0 <= first < beyond:
            raise ValueError(f"size is {size} and the segment {first} to {beyond} s; need a size, and 0 <= start < end")
    decode_with = find_decoder(decoder)
    if not is_remote(path):
        _check_file(path)
    return decode_with(path, sampling, size, bounds, threads)


def _check_file(path: str) -> None:
    """A pipe or a device would be waited for, and ffmpeg's own messages do not tell these cases apart."""
    try:
        status = Path(path).stat()
        if stat.S_ISREG(status.st_mode):
            with Path(path).open("rb"):
                pass
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DecodeError("missing", path, "there is no such file") from error
    except (OSError, ValueError) as error:
        raise DecodeError("unreadable", path, getattr(error, "strerror", None) or str(error)) from error
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise DecodeError("unreadable", path, f"is {what}")
    if not status.st_size:
        raise DecodeError("unreadable", path, "is empty")
