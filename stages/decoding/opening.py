"""Opening a video with ffmpeg's libraries: one place says what may be opened, and which stream of it is the video."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from clip2video_pipe.manifests.remote import RemoteFile
from clip2video_pipe.stages.decoding.failures import DecodeError
from clip2video_pipe.stages.decoding.readable import readable

DEFAULT = 5_000_000  # pixels that a stream marked as the default may lack, and ffmpeg still takes it

FALLBACK_RATE = 25.0  # what ffmpeg assumes where a file does not say

WORTH_THREADS = 100_000_000  # pixels to decode: about 17 s of 640x360 at 25 frames a second

# Lists of other files: what a video names must never be opened.
PLAYLISTS = frozenset(["concat", "dash", "hls", "image2", "imf", "sdp"])


@dataclass(frozen=True, eq=False)
class Source:
    """An open file and the stream of it that is decoded."""

    path: str
    container: InputContainer
    stream: VideoStream

    @property
    def codec(self) -> str:
        """The codec's name, whatever decodes it: `av1`, not `libdav1d`."""
        return str(cast(Any, self.stream.codec_context).codec.canonical_name)

    @property
    def rate(self) -> float:
        """Frames a second, as ffmpeg takes them from a file."""
        return float(self.stream.guessed_rate or self.stream.average_rate or FALLBACK_RATE)

    @property
    def tick(self) -> float:
        """Seconds of a unit of its time stamps."""
        return float(self.stream.time_base or 1)

    def use_threads(self, count: int, packets: int) -> None:
        """Decode on several cores where there are enough packets to make up for what that costs; ask before any is."""
        if count > 1 and packets * self.stream.width * self.stream.height >= WORTH_THREADS:
            self.stream.codec_context.thread_type = "AUTO"
            self.stream.codec_context.thread_count = count

    def packets(self, lost: list[float | None]) -> "Iterator[Packet[VideoStream]]":
        """The stream's packets from here on; where the file cannot be read on, that is one loss and the end."""
        try:
            for packet in self.container.demux(self.stream):
                if packet.size:  # in AVI, one without is a frame that was dropped; to a decoder it would mean the end
                    yield packet
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            lost.append(None)
        except IndexError:
            pass  # after the last packet PyAV looks up all streams, and fails where one has appeared on the way


@contextmanager
def opened(path: str) -> Iterator[Source]:
    """The file, or what is at the address, and the video stream in it to decode.

    Raises DecodeError; what it raises inside passes through, unless it was the connection's fault.
    """
    with readable(path) as file, _opened(path, file) as source:
        yield source


@contextmanager
def _opened(path: str, file: str | RemoteFile) -> Iterator[Source]:
    # Strict metadata would fail on old tags. Whatever a remote file names, nothing of it is opened, not here either.
    options = {"protocol_whitelist": "file" if isinstance(file, str) else "none"}
    try:
        container = av.open(file, "r", metadata_errors="replace", options=options)
    except (av.FFmpegError, UnicodeError) as error:
        if isinstance(error, MemoryError):
            raise
        raise DecodeError("unreadable", path, f"it cannot be opened as a video: {reason(error)}") from error
    with container:
        if PLAYLISTS & set(container.format.name.split(",")):
            raise DecodeError("unreadable", path, f"it is a list of other files ({container.format.name}), not a video")
        stream = _video_stream(container)
        if stream is None:
            kinds = ", ".join(sorted({other.type for other in container.streams})) or "nothing"
            raise DecodeError("no-video-stream", path, f"it holds no video, but {kinds}")
        if not _has_decoder(stream):
            raise DecodeError("unreadable", path, "there is no decoder for its video")
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
        stream.codec_context.thread_type = "NONE"  # the fastest per core
        stream.codec_context.thread_count = 1
        yield Source(path, container, stream)


def _video_stream(container: InputContainer) -> VideoStream | None:
    """The stream that the ffmpeg program takes, which is not always `streams.best` of its libraries."""

    def score(stream: VideoStream) -> tuple[bool, bool, int]:
        if not _has_decoder(stream):
            return False, False, 0
        is_cover_art = bool(stream.disposition & Disposition.attached_pic)
        is_default = bool(stream.disposition & Disposition.default)
        return True, not is_cover_art, stream.width * stream.height + is_default * DEFAULT

    return max(container.streams.video, key=score, default=None)


def _has_decoder(stream: VideoStream) -> bool:
    return cast(Any, stream.codec_context) is not None  # without, a stream has no width either


def reason(error: Exception) -> str:
    """What an error of ffmpeg's says, in a few words."""
    return getattr(error, "strerror", None) or str(error)
