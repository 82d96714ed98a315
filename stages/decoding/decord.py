"""The decord decoder: its pixels, our choice of frames. What it is known to get wrong is refused by name."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from av.video.frame import VideoFrame

from clip2video_pipe.manifests.addresses import is_remote
from clip2video_pipe.stages.decoding import Clip, geometry
from clip2video_pipe.stages.decoding.failures import DecodeError
from clip2video_pipe.stages.decoding.opening import opened
from clip2video_pipe.stages.decoding.packets import read_all
from clip2video_pipe.stages.decoding.pictures import Pictures, matrix_of
from clip2video_pipe.stages.decoding.pyav import Run, clip_of, wanted
from clip2video_pipe.stages.decoding.segments import Segment
from clip2video_pipe.stages.sampling import Sampling

BATCH = 16  # frames at a time: they come in the video's own size
PLACE = re.compile(r"\[[0-9:]+\] \S+: ")  # in its C++ code, which its messages begin with
SAME = 2e-3  # seconds: decord rounds its times to float32


def decode(
    path: str, sampling: Sampling, size: int, segments: Sequence[tuple[float, float]], threads: int = 1
) -> list[Clip | DecodeError]:
    """See `clip2video_pipe.stages.decoding.decode_segments`.

    Times and choice are those of PyAV. Raises DecodeError where decord is known to give other frames, or does.
    """
    if is_remote(path):
        raise _refused(path, "reads local files alone")
    with opened(path) as source:
        if source.codec == "av1":
            raise _refused(path, "cannot open AV1")
        if len(source.container.streams.video) > 1:
            raise _refused(path, "may take another one of several video streams")
        reading = read_all(source)
    cuts = [Segment(start, end) for start, end in segments]
    chosen = [cut.choose(reading.shown, sampling) for cut in cuts]
    indices = wanted(chosen)
    pictures = Pictures(path, size, indices)
    try:
        if _is_turned(path):
            raise _refused(path, "may show rotated videos as they are stored")
        reader = _reader(path, threads)
        times = np.asarray(reader.get_frame_timestamp(range(len(reader))), np.float64).reshape(-1, 2)[:, 0]
        ours = reading.shown.times
        if len(times) != len(ours) or not np.allclose(times - times[:1], ours - ours[:1], atol=SAME):
            raise _refused(path, f"shows {len(times)} frames where there are {len(ours)}, or at other times")
        for start in range(0, len(indices), BATCH):
            part = indices[start : start + BATCH].tolist()
            for index, pixels in zip(part, reader.get_batch(part).asnumpy(), strict=True):
                pictures.add(index, VideoFrame.from_ndarray(pixels, "rgb24"))
    except (DecodeError, MemoryError):
        raise
    except Exception as error:  # its own class of errors has the whole C++ stack in it
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise _refused(path, f"fails: {PLACE.sub('', line)[:200]}") from error
    run = Run(chosen, reading.shown, pictures, [])
    return [clip_of(path, sampling, cut, its, run) for cut, its in zip(cuts, chosen, strict=True)]


def _reader(path: str, threads: int) -> Any:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    return decord.VideoReader(path, num_threads=threads)


def _is_turned(path: str) -> bool:
    with opened(path) as source:
        for frame in source.container.decode(source.stream):
            a, _, _, d = matrix = matrix_of(frame)
            return geometry.is_sideways(matrix) or a < 0 or d < 0
    return False


def _refused(path: str, why: str) -> DecodeError:
    return DecodeError("unreadable", path, f"decord {why}; use sampling.decoder: av")
