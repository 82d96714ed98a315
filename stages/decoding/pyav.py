"""The PyAV decoder: ffmpeg's libraries in this process, one thread."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from clip2video_pipe.stages.decoding import Clip, geometry
from clip2video_pipe.stages.decoding.failures import DecodeError
from clip2video_pipe.stages.decoding.groups import CODECS, CONTAINERS, PASSING, Selection, is_start, select
from clip2video_pipe.stages.decoding.timestamps import Stamp, display_times
from clip2video_pipe.stages.sampling import Indices, Sampling, Times

# Without full chroma, swscale gives two neighbouring pixels one colour: up to 10 dB further from the original.
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT

DEFAULT = 5_000_000  # pixels that a stream marked as the default may lack, and ffmpeg still takes it

FALLBACK_RATE = 25.0  # what ffmpeg assumes where a file does not say


def decode(
    path: str, sampling: Sampling, size: int, segments: Sequence[tuple[float, float]]
) -> list[Clip | DecodeError]:
    """See `clip2video_pipe.stages.decoding.decode_segments`.

    The frames are chosen from the packets' time stamps, and no more than they need is decoded. Where a stream cannot
    promise that this gives the same frames, all of it is decoded; and where that shows others than the packets
    promised (damage, fields, packed frames), they are chosen again from those, and decoded once more.
    """
    cuts = [Segment(start, end) for start, end in segments]
    promised, packets = promised_times(path)
    chosen = [cut.choose(promised, sampling) for cut in cuts]
    run = None if packets is None else _decode_selected(path, promised, packets, _wanted(chosen), size)
    if run is None:
        run = _decode_run(path, _wanted(chosen), size)
        chosen = [cut.choose(run.shown, sampling) for cut in cuts]
        if not set(_wanted(chosen).tolist()) <= run.pictures.keys():
            run = _decode_run(path, _wanted(chosen), size)
    last = {index: number for number, its in enumerate(chosen) for index in its.indices.tolist()}
    clips: list[Clip | DecodeError] = []
    for number, (cut, its) in enumerate(zip(cuts, chosen, strict=True)):
        clips.append(_clip(path, sampling, cut, its, run))
        for index in its.indices.tolist():
            if last[index] == number:  # no later segment has this picture: it need not be there twice
                run.pictures.pop(index, None)
    return clips


def _wanted(chosen: "Iterable[Chosen]") -> Indices:
    return np.unique(np.concatenate([its.indices for its in chosen]))


def _clip(path: str, sampling: Sampling, segment: "Segment", chosen: "Chosen", run: "Run") -> Clip | DecodeError:
    lost = segment.count(run.lost, run.shown.first)
    if not chosen.decoded and lost:
        return DecodeError("damaged", path, f"none of its frames can be decoded ({lost} packets failed)")
    if not chosen.decoded:
        return DecodeError("no-frames", path, f"it shows {len(run.shown.times)} frames, none of them {segment}")
    indices = chosen.indices.tolist()
    if not indices:
        return DecodeError("no-frames", path, f"of its {chosen.decoded} frames, {sampling} keeps none")
    if not run.pictures.keys() >= set(indices):  # a file may change between two runs
        return DecodeError("unreadable", path, "it does not decode to the same frames twice")
    return Clip(
        pictures=np.stack([run.pictures[index] for index in indices]),
        times=chosen.times,
        rate=run.shown.rate,
        decoded=chosen.decoded,
        lost=lost,
        width=run.width,
        height=run.height,
    )


@dataclass(frozen=True, eq=False)
class Shown:
    """The frames that a video shows: their times [n] in seconds, in the order they are shown, and its rate."""

    times: Times
    rate: float  # frames a second

    @property
    def first(self) -> float:
        return float(self.times[0]) if len(self.times) else 0.0


@dataclass(frozen=True, eq=False)
class Chosen:
    """Frames chosen of a segment: where they come among all that the video shows, and when in the segment."""

    indices: Indices  # [m]
    times: Times  # [m] seconds from the segment's first frame
    decoded: int  # frames in the segment


@dataclass(frozen=True)
class Segment:
    """Seconds from the video's first frame: start <= time < end."""

    start: float
    end: float

    def __str__(self) -> str:
        return f"from {self.start} s to {self.end} s"

    def holds(self, times: Times) -> npt.NDArray[np.bool_]:
        """Which of the times [n] are in it; stamps before the first frame belong to the beginning."""
        return ((times >= self.start) | (self.start == 0)) & (times < self.end)

    def choose(self, shown: Shown, sampling: Sampling) -> Chosen:
        inside = np.flatnonzero(self.holds(shown.times - shown.first))
        times = shown.times[inside]
        times = times - times[:1]
        picked = sampling.choose(times, shown.rate)
        return Chosen(inside[picked].astype(np.int64), times[picked], len(inside))

    def count(self, times: list[float | None], first: float) -> int:
        """How many of these are in it, unknown ones included; `first` is the time of the video's first frame."""
        known = np.array([time - first for time in times if time is not None], np.float64)
        return times.count(None) + int(self.holds(known).sum())


@dataclass
class Run:
    """What came out of decoding a video."""

    shown: Shown
    lost: list[float | None]  # seconds of the packets that did not decode, where they have a time
    pictures: dict[int, geometry.Picture] = field(default_factory=dict)  # [size, size, 3], by the frame's index
    width: int = 0  # as shown, pixels
    height: int = 0

    def keep(self, index: int, path: str, scaler: VideoReformatter, frame: VideoFrame, size: int) -> None:
        """Make and keep the small picture of a frame."""
        matrix = _matrix(frame)
        if not self.pictures:
            self.width, self.height = frame.width, frame.height
            if geometry.is_sideways(matrix):
                self.width, self.height = self.height, self.width
        self.pictures[index] = _picture(path, scaler, frame, matrix, size)


@dataclass(frozen=True, eq=False)
class Packets:
    """A stream's packets in the order of decoding, where each shows one frame at a known time."""

    pts: npt.NDArray[np.int64]  # [n]
    starts: npt.NDArray[np.bool_]  # [n]: random access points
    shown: npt.NDArray[np.int64]  # [frames]: stamps of the frames that are shown, in order


def promised_times(path: str) -> tuple[Shown, Packets | None]:
    """What the packets say, before anything is decoded; None where they do not say enough to leave any out."""
    with opened(path) as (container, stream):
        rate = _rate(stream)
        context = stream.codec_context
        lost: list[float | None] = []
        every: list[tuple[Stamp, bool]] = []
        found: list[tuple[Stamp, Stamp]] = []
        for packet in _packets(path, container, stream, lost):
            if not packet.size:
                continue
            start = packet.is_keyframe and is_start(codec_of(context), context.extradata, bytes(packet))
            every.append((packet.pts, start))
            if not packet.is_discard:
                found.append((packet.pts, packet.dts))
        # Frames are shown in the order of their presentation stamps, whatever the order of the packets.
        has_pts = all(pts is not None for pts, _ in found)
        stamps = sorted(stamp for pair in found if (stamp := pair[0] if has_pts else pair[1]) is not None)
        shown = Shown(display_times(stamps, stamps, tick_of(stream), rate), rate)
        known = codec_of(context) in CODECS and container.format.name in CONTAINERS
        if lost or not known or any(pts is None for pts, _ in every):
            return shown, None
        pts = np.array([pts for pts, _ in every], np.int64)
        return shown, Packets(pts, np.array([start for _, start in every], bool), np.array(stamps, np.int64))


def codec_of(context: Any) -> str:
    """The codec's name, whatever decodes it: `av1`, not `libdav1d`."""
    return str(context.codec.canonical_name)


def _decode_selected(path: str, promised: Shown, packets: Packets, wanted: Indices, size: int) -> Run | None:
    """Pictures of the frames `wanted`, by way of no more packets than they need; None where that does not do.

    Packets that are not sent are read and thrown away: a file may end, or seek, as it likes.
    """
    selection = select(packets.pts, packets.starts, packets.shown[wanted])
    if selection is None:
        return None
    index_of = dict(zip(packets.shown[wanted].tolist(), wanted.tolist(), strict=True))
    run = Run(promised, [])
    with opened(path) as (container, stream):
        scaler = VideoReformatter()
        for frame in _selected_frames(path, container, stream, selection, run.lost):
            index = index_of.get(frame.pts) if frame.pts is not None else None
            if index is not None and not frame.is_corrupt:
                run.keep(index, path, scaler, frame, size)
    return run if not run.lost and len(run.pictures) == len(index_of) else None


def _selected_frames(
    path: str, container: InputContainer, stream: VideoStream, selection: Selection, lost: list[float | None]
) -> Iterator[VideoFrame]:
    context = cast(Any, stream.codec_context)
    number, running, may_pass = -1, False, codec_of(context) in PASSING
    try:
        for packet in _packets(path, container, stream, lost):
            number += packet.size > 0
            if not packet.size or number >= len(selection.send):
                continue
            if selection.fresh[number] and running:
                yield from context.decode(None)
                context.flush_buffers()
            if selection.send[number]:
                running = True
                context.skip_frame = "NONREF" if may_pass and not selection.chosen[number] else "DEFAULT"
                yield from context.decode(packet)
        yield from context.decode(None)
    except (av.FFmpegError, ValueError):
        lost.append(None)


def _decode_run(path: str, wanted: Indices, size: int) -> Run:
    """Decode all frames and keep small pictures of those whose index is in `wanted`."""
    keep = frozenset(wanted.tolist())
    with opened(path) as (container, stream):
        rate, tick = _rate(stream), tick_of(stream)
        pts: list[Stamp] = []
        dts: list[Stamp] = []
        run = Run(Shown(np.empty(0), rate), [])
        scaler = VideoReformatter()
        for frame in _frames(path, container, stream, run.lost):
            if len(pts) in keep:
                run.keep(len(pts), path, scaler, frame, size)
            pts.append(frame.pts)
            dts.append(frame.dts)
        run.shown = Shown(display_times(pts, dts, tick, rate), rate)
        return run


@contextmanager
def opened(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file and the video stream in it to decode."""
    # "file:" keeps a colon in a name from being read as a protocol. Strict metadata would fail on old tags.
    try:
        container = av.open(f"file:{Path(path).absolute()}", metadata_errors="replace")
    except (av.FFmpegError, UnicodeError) as error:
        raise DecodeError("unreadable", path, f"it cannot be opened as a video: {_reason(error)}") from error
    with container:
        stream = _video_stream(container)
        if stream is None:
            kinds = ", ".join(sorted({other.type for other in container.streams})) or "nothing"
            raise DecodeError("no-video-stream", path, f"it holds no video, but {kinds}")
        if not _has_decoder(stream):
            raise DecodeError("unreadable", path, "there is no decoder for its video")
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        yield container, stream


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


def _packets(
    path: str, container: InputContainer, stream: VideoStream, lost: list[float | None]
) -> "Iterator[Packet[VideoStream]]":
    """The stream's packets; where the file cannot be read on, that is one loss and the end."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError:
        lost.append(None)
    except IndexError:
        pass  # after the last packet PyAV looks up all streams, and fails where one has appeared on the way


def _frames(
    path: str, container: InputContainer, stream: VideoStream, lost: list[float | None]
) -> Iterator[VideoFrame]:
    """The frames that are shown, in order. Adds the time of each packet that does not decode to `lost`."""
    context = stream.codec_context
    for packet in _packets(path, container, stream, lost):
        if not packet.size:
            continue  # in AVI a frame that was dropped; to the decoder it would mean the end
        try:
            frames = context.decode(packet)
        except (av.FFmpegError, ValueError):
            stamp = packet.pts if packet.pts is not None else packet.dts
            lost.append(None if stamp is None else stamp * tick_of(stream))
        else:
            yield from frames
    try:
        yield from context.decode(None)
    except (av.FFmpegError, ValueError):
        lost.append(None)


def _picture(
    path: str, scaler: VideoReformatter, frame: VideoFrame, matrix: geometry.Matrix, size: int
) -> geometry.Picture:
    """uint8 [size, size, 3] RGB (reference 3)."""
    width, height = geometry.resized(frame.width, frame.height, size)
    try:
        small = scaler.reformat(
            frame,
            width,
            height,
            "rgb24",
            # BT.601 whatever the file says: the original's pictures went through JPEG.
            src_colorspace=Colorspace.ITU601,
            dst_colorspace=Colorspace.ITU601,
            src_color_range=frame.color_range,
            dst_color_range=ColorRange.JPEG,
            interpolation=SCALING,
            threads=1,
        )
    except av.FFmpegError as error:
        raise DecodeError("unreadable", path, f"{frame.format.name} pictures: {_reason(error)}") from error
    pixels = geometry.center_crop(geometry.shown(small.to_ndarray(), matrix), size)
    return np.array(pixels, np.uint8, order="C")  # a copy: the view would keep the whole picture alive


def _matrix(frame: VideoFrame) -> geometry.Matrix:
    data = cast(Any, frame.side_data).get("DISPLAYMATRIX")
    return geometry.AS_STORED if data is None else geometry.display_matrix(bytes(data))


def _rate(stream: VideoStream) -> float:
    """Frames a second, as ffmpeg takes them from a file."""
    return float(stream.guessed_rate or stream.average_rate or FALLBACK_RATE)


def tick_of(stream: VideoStream) -> float:
    return float(stream.time_base or 1)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
