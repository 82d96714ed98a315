"""The PyAV decoder: ffmpeg's libraries in this process."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import av
import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame

from clip2video_pipe.stages.decoding import Clip
from clip2video_pipe.stages.decoding.failures import DecodeError
from clip2video_pipe.stages.decoding.groups import PASSING, Selection, select
from clip2video_pipe.stages.decoding.opening import Source, opened
from clip2video_pipe.stages.decoding.packets import Astray, Reading, is_far, read_all, read_part, sent
from clip2video_pipe.stages.decoding.pictures import Pictures
from clip2video_pipe.stages.decoding.segments import Chosen, Segment, Shown
from clip2video_pipe.stages.decoding.timestamps import Stamp, display_times
from clip2video_pipe.stages.sampling import Indices, Sampling


@dataclass(frozen=True, eq=False)
class Run:
    """What came out of decoding a video."""

    chosen: list[Chosen]  # of each segment
    shown: Shown
    pictures: Pictures  # of all frames that were chosen
    lost: list[float | None]  # seconds of the packets that did not decode, where they have a time
    in_full: str = ""  # why all of it was decoded; empty where no more was than needed


def decode(
    path: str, sampling: Sampling, size: int, segments: Sequence[tuple[float, float]], threads: int = 1
) -> list[Clip | DecodeError]:
    """See `clip2video_pipe.stages.decoding.decode_segments`.

    The frames are chosen from the packets' time stamps, and no more than they need is decoded. Where a stream cannot
    promise that this gives the same frames, all of it is decoded; and where that shows others than the packets
    promised (damage, fields, packed frames), they are chosen again from those, and decoded once more.
    """
    cuts = [Segment(start, end) for start, end in segments]

    def choose(shown: Shown) -> list[Chosen]:
        return [cut.choose(shown, sampling) for cut in cuts]

    start, end = min(cut.start for cut in cuts), max(cut.end for cut in cuts)
    run: Run | None = None
    with opened(path) as source:
        if is_far(source, start, end):
            reading = read_part(source, start, end)
            if reading is not None:
                run = _of_selected(source, reading, choose(reading.shown), size, threads)
        else:
            run = _of_all(source, choose, size, threads)
    if run is None or (run.lost and threads > 1):  # what is made of damage depends on the threads
        with opened(path) as source:
            run = _of_all(source, choose, size, threads if run is None else 1)
    return [clip_of(path, sampling, cut, its, run) for cut, its in zip(cuts, run.chosen, strict=True)]


def _of_all(source: Source, choose: Callable[[Shown], list[Chosen]], size: int, threads: int) -> Run:
    """By reading all of a file that was newly opened."""
    reading = read_all(source)
    chosen = choose(reading.shown)
    run = _of_selected(source, reading, chosen, size, threads)
    if run is not None:
        return run
    why = reading.why or "what its packets promise does not come out of the decoder"
    if reading.packets is None and reading.held is not None:  # nothing has been decoded yet
        run = _in_full(source, reading.held, list(reading.lost), chosen, size, why, threads)
    else:
        run = _again(source.path, chosen, size, why, threads)
    chosen = choose(run.shown)
    if not run.pictures.has(wanted(chosen).tolist()):
        run = _again(source.path, chosen, size, why, threads)
    return replace(run, chosen=chosen)


def wanted(chosen: Iterable[Chosen]) -> Indices:
    """The frames that any of these have chosen, in order, each once."""
    return np.unique(np.concatenate([its.indices for its in chosen]))


def clip_of(path: str, sampling: Sampling, segment: Segment, chosen: Chosen, run: Run) -> Clip | DecodeError:
    """The clip of a segment, or what is wrong with it."""
    lost = segment.count(run.lost, run.shown.first)
    if not chosen.decoded and lost:
        return DecodeError("damaged", path, f"none of its frames can be decoded ({lost} packets failed)")
    if not chosen.decoded:
        return DecodeError("no-frames", path, f"it shows {len(run.shown.times)} frames, none of them {segment}")
    indices = chosen.indices.tolist()
    if not indices:
        return DecodeError("no-frames", path, f"of its {chosen.decoded} frames, {sampling} keeps none")
    if not run.pictures.has(indices):  # a file may change between two runs
        return DecodeError("unreadable", path, "it does not decode to the same frames twice")
    return Clip(
        pictures=run.pictures.take(indices),
        times=chosen.times,
        rate=run.shown.rate,
        decoded=chosen.decoded,
        lost=lost,
        width=run.pictures.width,
        height=run.pictures.height,
        in_full=run.in_full,
    )


def _of_selected(source: Source, reading: Reading, chosen: list[Chosen], size: int, threads: int) -> Run | None:
    """By way of no more packets than the chosen frames need; None where that does not do."""
    if reading.packets is None:
        return None
    indices = wanted(chosen)
    stamps = reading.packets.shown[indices]
    selection = select(reading.packets.pts, reading.packets.starts, stamps, part=reading.packets.part)
    if selection is None:
        return None
    index_of = dict(zip(stamps.tolist(), indices.tolist(), strict=True))
    pictures = Pictures(source.path, size, indices)
    source.use_threads(threads, int(selection.send.sum()))
    try:
        for frame in _selected_frames(source, reading, selection):
            index = index_of.get(frame.pts) if frame.pts is not None else None
            if index is not None and not frame.is_corrupt:
                pictures.add(index, frame)
    except (av.FFmpegError, ValueError, Astray) as error:
        if isinstance(error, MemoryError):
            raise
        return None
    return Run(chosen, reading.shown, pictures, []) if pictures.complete else None


def _selected_frames(source: Source, reading: Reading, selection: Selection) -> Iterator[VideoFrame]:
    context = cast(Any, source.stream.codec_context)
    may_pass = source.codec in PASSING
    numbers = np.flatnonzero(selection.send)
    emptied = set(numbers[:-1][selection.fresh[numbers[1:]]].tolist())  # before the next: seeking throws away the rest
    for number, packet in sent(source, reading, selection):
        if may_pass:
            context.skip_frame = "DEFAULT" if selection.chosen[number] else "NONREF"
        yield from context.decode(packet)
        if number in emptied:
            yield from context.decode(None)
            context.flush_buffers()
    yield from context.decode(None)


def _again(path: str, chosen: Sequence[Chosen], size: int, why: str, threads: int) -> Run:
    """Decode all of a file that is opened anew."""
    lost: list[float | None] = []
    with opened(path) as source:
        return _in_full(source, source.packets(lost), lost, chosen, size, why, threads)


def _in_full(
    source: Source,
    packets: "Iterable[Packet[Any]]",
    lost: list[float | None],
    chosen: Sequence[Chosen],
    size: int,
    why: str,
    threads: int,
) -> Run:
    """Decode all frames and keep small pictures of those that are chosen. Adds to `lost`."""
    pictures = Pictures(source.path, size, wanted(chosen))
    pts: list[Stamp] = []
    dts: list[Stamp] = []
    source.use_threads(threads, sum(its.decoded for its in chosen))
    for frame in _frames(source, packets, lost):
        pictures.add(len(pts), frame)
        pts.append(frame.pts)
        dts.append(frame.dts)
    shown = Shown.whole(display_times(pts, dts, source.tick, source.rate), source.rate)
    return Run(list(chosen), shown, pictures, lost, why)


def _frames(source: Source, packets: "Iterable[Packet[Any]]", lost: list[float | None]) -> Iterator[VideoFrame]:
    """The frames that are shown, in order. Adds the time of each packet that does not decode to `lost`."""
    context = source.stream.codec_context
    for packet in packets:
        try:
            yield from context.decode(packet)
        except (av.FFmpegError, ValueError) as error:
            if isinstance(error, MemoryError):
                raise
            stamp = packet.pts if packet.pts is not None else packet.dts
            lost.append(None if stamp is None else stamp * source.tick)
    try:
        yield from context.decode(None)
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, MemoryError):
            raise
        lost.append(None)
