"""What a stream's packets say before anything is decoded, and how those that are needed are come by again."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet

from clip2video_pipe.stages.decoding.groups import CODECS, CONTAINERS, Selection, is_start
from clip2video_pipe.stages.decoding.opening import Source
from clip2video_pipe.stages.decoding.segments import Shown
from clip2video_pipe.stages.decoding.timestamps import Stamp, display_times

HELD = 64 << 20  # bytes of packets that are kept in memory; of more, those that are needed are read again
LONG = 64 << 20  # bytes of a file from which on a part of it is reached by seeking, the rest never read
EARLIER = (0.0, 2.0, 20.0)  # seconds before the begin of a part to look for a key frame to begin at


class Astray(Exception):
    """Seeking did not lead where the packets were before."""


@dataclass(frozen=True, eq=False)
class Packets:
    """A stream's packets in the order of decoding, where each shows one frame at a known time."""

    pts: npt.NDArray[np.int64]  # [n]
    dts: npt.NDArray[np.int64]  # [n]; the pts where it is not known
    starts: npt.NDArray[np.bool_]  # [n]: random access points
    shown: npt.NDArray[np.int64]  # [frames]: stamps of the frames that are shown, in order
    part: bool  # of the stream, so that pictures before the first start may be missing


@dataclass(frozen=True, eq=False)
class Reading:
    """A stream's packets, read once: the frames they promise, and what may be left out when those are decoded."""

    shown: Shown
    packets: Packets | None  # None where they do not say enough to leave any out
    why: str  # they do not
    held: "list[Packet[Any]] | None"  # the packets themselves; None where they would take too much memory
    lost: list[float | None]  # seconds of what could not be read, where they have a time


@dataclass
class _Collected:
    """Packets as they come: stamps of all, and the packets as far as they are not too many."""

    source: Source
    pts: list[Stamp] = field(default_factory=list)
    dts: list[Stamp] = field(default_factory=list)
    starts: list[bool] = field(default_factory=list)
    discarded: list[bool] = field(default_factory=list)
    held: "list[Packet[Any]] | None" = field(default_factory=list)
    bytes: int = 0

    def add(self, packet: "Packet[Any]") -> bool:
        """Whether it is a random access point."""
        context = self.source.stream.codec_context
        start = packet.is_keyframe and is_start(self.source.codec, context.extradata, bytes(packet))
        self.pts.append(packet.pts)
        self.dts.append(packet.dts)
        self.starts.append(start)
        self.discarded.append(packet.is_discard)
        self.bytes += packet.size
        if self.bytes > HELD:
            self.held = None
        if self.held is not None:
            self.held.append(packet)
        return start

    def times(self) -> tuple[npt.NDArray[np.float64], list[int]]:
        """Seconds and stamps of the frames that are shown, in order."""
        found = [pair for *pair, out in zip(self.pts, self.dts, self.discarded, strict=True) if not out]
        # Frames are shown in the order of their presentation stamps, whatever the order of the packets.
        has_pts = all(pts is not None for pts, _ in found)
        stamps = sorted(stamp for pts, dts in found if (stamp := pts if has_pts else dts) is not None)
        return display_times(stamps, stamps, self.source.tick, self.source.rate), stamps

    def packets(self, stamps: list[int], *, part: bool) -> Packets:
        dts = [p if d is None else d for p, d in zip(self.pts, self.dts, strict=True)]
        return Packets(
            np.array(self.pts, np.int64),
            np.array(dts, np.int64),
            np.array(self.starts, bool),
            np.array(stamps, np.int64),
            part,
        )


def read_all(source: Source) -> Reading:
    """All packets from here to the end."""
    lost: list[float | None] = []
    found = _Collected(source)
    for packet in source.packets(lost):
        found.add(packet)
    times, stamps = found.times()
    why = _silence(source, found.pts) or ("it cannot be read to its end" if lost else "")
    packets = None if why else found.packets(stamps, part=False)
    return Reading(Shown.whole(times, source.rate), packets, why, found.held, lost)


def _silence(source: Source, pts: Iterable[Stamp]) -> str:
    """Why packets do not say enough to leave any out; empty where they do."""
    if source.codec not in CODECS:
        return f"of {source.codec} it is not known which frames refer to which"
    if source.container.format.name not in CONTAINERS:
        return f"{source.container.format.name} files do not say when frames are shown"
    if any(stamp is None for stamp in pts):
        return "its packets do not say when frames are shown"
    return ""


def is_far(source: Source, start: float, end: float) -> bool:
    """Whether a part of a file, in seconds from its first frame, is better gone to than read up to.

    So it is where the file is long, the part no more than half of it, and its packets may say enough.
    """
    seconds = source.stream.duration * source.tick if source.stream.duration else (source.container.duration or 0) / 1e6
    is_part = min(end, seconds) - start <= seconds / 2 and (start > 0 or not math.isinf(end))
    return is_part and source.container.size >= LONG and not _silence(source, ())


def read_part(source: Source, start: float, end: float) -> Reading | None:
    """The packets of such a part, and of the file's first group; None where they do not say enough after all."""
    lost: list[float | None] = []
    head = _Collected(source)
    for packet in source.packets(lost):
        if head.add(packet) and sum(head.starts) > 1:
            break
    if lost or _silence(source, head.pts):
        return None
    times, _ = head.times()
    if not len(times):
        return None
    first = float(times[0])
    found = _collect(source, first + start, first + end, lost)
    if found is None or lost or _silence(source, found.pts):
        return None
    times, stamps = found.times()
    return Reading(Shown(times, source.rate, first), found.packets(stamps, part=True), "", found.held, lost)


def _collect(source: Source, begin: float, end: float, lost: list[float | None]) -> _Collected | None:
    """Packets from the key frame at or before `begin` to the second one after `end`: pictures of the first may be
    shown before it."""
    for earlier in EARLIER:
        found = _Collected(source)
        ends = 0
        try:
            source.container.seek(math.floor((begin - earlier) / source.tick), stream=source.stream)
        except av.FFmpegError:
            return None
        for packet in source.packets(lost):
            start = found.add(packet)
            if len(found.pts) == 1 and not (start and packet.pts is not None and packet.pts * source.tick <= begin):
                break
            ends += start and packet.pts is not None and packet.pts * source.tick >= end
            if ends == 2:
                return found
        else:
            return found if found.pts else None
    return None


def sent(source: Source, reading: Reading, selection: Selection) -> "Iterator[tuple[int, Packet[Any]]]":
    """The packets that are to be decoded, with their numbers. Raises Astray."""
    if reading.held is not None:
        for number in np.flatnonzero(selection.send).tolist():
            yield number, reading.held[number]
        return
    assert reading.packets is not None, "without, nothing could be selected"
    numbers = {stamp: number for number, stamp in enumerate(reading.packets.pts.tolist())}
    group = np.cumsum(reading.packets.starts, dtype=np.int64)
    at, packets = -1, cast("Iterator[Packet[Any]]", iter(()))
    for first, last in _spans(group, selection):
        if selection.fresh[first]:  # of any other the decoder still needs the pictures before, and seeking empties it
            at, packets = _seek(source, reading.packets, numbers, first)
        while at < last:
            packet = next(packets, None)
            number = -1 if packet is None else numbers.get(packet.pts, -1)
            if packet is None or number != at + 1:
                raise Astray
            at = number
            if selection.send[at]:
                yield at, packet


def _spans(group: npt.NDArray[np.int64], selection: Selection) -> Iterator[tuple[int, int]]:
    """First and last packet to send of each group that has any."""
    send = np.flatnonzero(selection.send)
    cuts = np.flatnonzero(np.diff(group[send])) + 1
    for part in np.split(send, cuts):
        if len(part):
            yield int(part[0]), int(part[-1])


def _seek(source: Source, packets: Packets, numbers: dict[int, int], first: int) -> "tuple[int, Iterator[Packet[Any]]]":
    """Go to just before packet `first`: the number of the one before, and what comes from there. Raises Astray."""
    for stamp in (int(packets.pts[first]), int(packets.dts[first]), int(packets.dts[0])):
        try:
            source.container.seek(stamp, stream=source.stream)
        except av.FFmpegError as error:
            raise Astray from error
        lost: list[float | None] = []
        found = source.packets(lost)
        for packet in found:
            number = -1 if packet.pts is None else numbers.get(packet.pts, -1)
            if number == first:
                return first - 1, _again(packet, found)
            if number > first:
                break
    raise Astray


def _again(packet: "Packet[Any]", packets: "Iterator[Packet[Any]]") -> "Iterator[Packet[Any]]":
    yield packet
    yield from packets
