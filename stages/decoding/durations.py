"""How long a video is, without decoding it."""

import av

from clip2video_pipe.manifests.addresses import Location, whole
from clip2video_pipe.stages.decoding.failures import DecodeError
from clip2video_pipe.stages.decoding.opening import Source, opened
from clip2video_pipe.stages.decoding.packets import read_all


def duration(path: Location) -> float | None:
    """Seconds of the video that would be decoded; None where the file does not open as one.

    What the container says of the stream; else its DURATION tag (Matroska); else from the time stamps of all packets.
    Raises OSError for what is of the moment and says nothing about the file.
    """
    try:
        with opened(whole(path)) as source:
            said = _said(source)
            if said is not None:
                return said
            shown = read_all(source).shown
    except DecodeError as error:
        if error.passing:
            raise OSError(str(error)) from error
        return None
    except av.FFmpegError:
        return None
    return float(shown.times[-1] - shown.times[0] + 1 / shown.rate) if len(shown.times) else None


def _said(source: Source) -> float | None:
    stream = source.stream
    if stream.duration:
        return float(stream.duration * source.tick)
    tag = stream.metadata.get("DURATION", "")
    try:
        hours, minutes, seconds = (float(part) for part in tag.split(":"))
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds or None
