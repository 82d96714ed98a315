"""Which packets have to be decoded to see chosen frames: pure, and never fewer than make the same pixels."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Stamps = npt.NDArray[np.int64]

# What gives packets the times at which their frames are shown; AVI, for one, guesses.
CONTAINERS = frozenset(["mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts"])

# Of these a packet shows one frame, and what comes after a random access point never refers to what came before it,
# but for pictures that are shown before that point.
CODECS = frozenset(["h264", "hevc", "vp9", "av1", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg", "prores", "dnxhd"])


# Whose decoders may be told packet by packet to pass over frames that nothing refers to; dav1d is told once for all.
PASSING = frozenset(["h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video"])


@dataclass(frozen=True, eq=False)
class Selection:
    """Packets in the order of decoding: which go to the decoder, and before which it is emptied."""

    send: Bools  # [packets]
    chosen: Bools  # [packets]: those whose frames are asked for; the decoder may pass over others nothing refers to
    fresh: Bools  # [packets]: random access points that nothing is kept for


def select(pts: Stamps, starts: Bools, wanted: Stamps, *, part: bool = False) -> Selection | None:
    """The packets to decode for the frames stamped `wanted`; None where only all of them would be safe.

    `pts` [packets] are display stamps in the order of decoding, `starts` [packets] the random access points: each
    begins a group. A group is decoded up to its last wanted frame. Pictures of a group that are shown before its start
    may refer to the group before: where one is wanted that group is decoded too, all of it; else they are left out.
    `part`: whether there may be packets before these; then the first group may have such pictures, none of them wanted.
    """
    if not len(pts) or not starts[0] or len(set(pts.tolist())) < len(pts):
        return None
    group = np.cumsum(starts) - 1
    leading = pts < pts[starts][group]
    chosen = np.isin(pts, wanted)
    if (leading & (chosen | (not part)))[group == 0].any():
        return None
    if chosen.sum() < len(set(wanted.tolist())):
        return None
    groups = int(group[-1]) + 1
    reaches_back = np.zeros(groups + 1, bool)
    reaches_back[group[chosen & leading]] = True
    whole = reaches_back[1:]  # the next one reaches back into it
    last = np.full(groups, -1, np.int64)  # of each group its last packet to send
    np.maximum.at(last, group[chosen], np.flatnonzero(chosen))
    ends = np.append(np.flatnonzero(starts)[1:], len(pts)) - 1
    last = np.where(whole, ends, last)
    send = np.arange(len(pts)) <= last[group]
    # A leading picture is good for itself alone, and only right behind the group before.
    send &= ~leading | reaches_back[group]
    return Selection(send, chosen, starts & send & ~reaches_back[group])


def is_start(codec: str, extradata: bytes | None, packet: bytes) -> bool:
    """Whether a packet that the file calls a key frame is a random access point.

    H.264 files also mark pictures from which decoding recovers after a while: only an IDR picture is one here. In HEVC
    all pictures that may be marked (types 16 to 21) are.
    """
    if codec == "h264":
        return any(nal[0] & 31 == 5 for nal in _nals(packet, extradata, 4))
    if codec == "hevc":
        return any(16 <= nal[0] >> 1 & 63 <= 21 for nal in _nals(packet, extradata, 21))
    return True


def _nals(packet: bytes, extradata: bytes | None, place: int) -> list[bytes]:
    """The first bytes of each NAL unit: after its length as in MP4, or after a start code."""
    if not extradata or extradata[0] != 1 or len(extradata) <= place:
        return [part[:2] for part in packet.split(b"\0\0\1")[1:] if part]
    size, at, found = (extradata[place] & 3) + 1, 0, []
    while at + size < len(packet):
        found.append(packet[at + size : at + size + 2])
        at += size + int.from_bytes(packet[at : at + size], "big")
    return found
