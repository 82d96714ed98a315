"""How long a video is, without decoding it."""

from pathlib import Path

import av
from av.video.stream import VideoStream

from clip2video_pipe.stages.decoding.failures import DecodeError
from clip2video_pipe.stages.decoding.pyav import opened, promised_times, tick_of


def duration(path: Path) -> float | None:
    """Seconds of the video that would be decoded; None where the file does not open as one.

    What the container says of the stream; else its DURATION tag (Matroska); else from the time stamps of all packets.
    """
    try:
        with opened(str(path)) as (_, stream):
            said = _said(stream)
        if said is not None:
            return said
        shown, _ = promised_times(str(path))
    except (DecodeError, av.FFmpegError):
        return None
    return float(shown.times[-1] - shown.times[0] + 1 / shown.rate) if len(shown.times) else None


def _said(stream: VideoStream) -> float | None:
    if stream.duration:
        return float(stream.duration * tick_of(stream))
    tag = stream.metadata.get("DURATION", "")
    try:
        hours, minutes, seconds = (float(part) for part in tag.split(":"))
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds or None
