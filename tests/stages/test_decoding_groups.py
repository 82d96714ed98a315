"""Decoding no more than is needed gives the same clip, bit for bit, as decoding all of it."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip2video_pipe.stages.decoding import Clip, DecodeError, decode_segments, packets, pyav
from clip2video_pipe.stages.decoding.groups import select
from clip2video_pipe.stages.decoding.pictures import Pictures
from clip2video_pipe.stages.sampling import Sampling

X264 = "bframes=3:b-pyramid=normal:keyint=12:min-keyint=12:scenecut=0:threads=1"
CASES = {
    "h264, closed groups": ("libx264", "mp4", {"x264-params": X264}, {}),
    "h264, open groups": ("libx264", "mkv", {"x264-params": X264 + ":open-gop=1"}, {}),
    "h264, one key frame": ("libx264", "mp4", {"x264-params": "keyint=999:bframes=3:threads=1"}, {}),
    "h264, all key frames": ("libx264", "mov", {"x264-params": "keyint=1:threads=1"}, {}),
    "h264, recovery points": ("libx264", "ts", {"x264-params": "intra-refresh=1:keyint=12:bframes=0:threads=1"}, {}),
    "h264, interlaced": ("libx264", "mp4", {"x264-params": X264 + ":tff=1"}, {}),
    "h264, 10 bits": ("libx264", "mp4", {"x264-params": X264}, {"pix_fmt": "yuv420p10le"}),
    "h264, transport stream": ("libx264", "ts", {"x264-params": X264}, {}),
    "h264, open groups in a transport stream": ("libx264", "ts", {"x264-params": X264 + ":open-gop=1"}, {}),
    "h264, fragmented": (
        "libx264",
        "mp4",
        {"x264-params": X264},
        {"container": {"movflags": "frag_keyframe+empty_moov"}},
    ),
    "h264, variable rate": ("libx264", "mkv", {"x264-params": X264}, {"variable": True}),
    "h264, 120 frames a second": ("libx264", "mp4", {"x264-params": X264}, {"rate": 120}),
    "h264, 1 frame a second": ("libx264", "mp4", {"x264-params": X264}, {"rate": 1}),
    "h264, odd size": ("libx264", "mkv", {"x264-params": X264}, {"size": (95, 71), "pix_fmt": "yuv444p"}),
    "h264, full range": ("libx264", "mp4", {"x264-params": X264}, {"pix_fmt": "yuvj420p"}),
    "h264, one frame": ("libx264", "mp4", {"x264-params": X264}, {"frames": 1}),
    "h264, a tenth of a second": ("libx264", "mp4", {"x264-params": X264}, {"frames": 3, "rate": 30}),
    "h264, fragments without an index": (
        "libx264",
        "mp4",
        {"x264-params": X264},
        {"container": {"movflags": "dash+frag_keyframe+empty_moov+skip_trailer"}},
    ),
    "h264, avi": ("libx264", "avi", {"x264-params": X264}, {}),
    "hevc, closed groups": ("libx265", "mp4", {"x265-params": "keyint=12:open-gop=0:bframes=3:log-level=none"}, {}),
    "hevc, open groups": ("libx265", "mkv", {"x265-params": "keyint=12:open-gop=1:bframes=3:log-level=none"}, {}),
    "hevc, 10 bits": (
        "libx265",
        "mp4",
        {"x265-params": "keyint=12:open-gop=1:bframes=3:log-level=none"},
        {"pix_fmt": "yuv420p10le"},
    ),
    "vp8": ("libvpx", "webm", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "10"}, {}),
    "vp9": ("libvpx-vp9", "webm", {"g": "12", "lag-in-frames": "10", "cpu-used": "8"}, {}),
    "av1": ("libsvtav1", "mkv", {"g": "12", "preset": "12"}, {}),
    "mpeg4": ("mpeg4", "mp4", {"g": "12", "bf": "2"}, {}),
    "mpeg4, avi": ("mpeg4", "avi", {"g": "12", "bf": "2"}, {}),
    "mpeg2, transport stream": ("mpeg2video", "ts", {"g": "12", "bf": "2"}, {}),
    "mpeg2, closed groups": (
        "mpeg2video",
        "mkv",
        {"g": "12", "bf": "2", "flags": "+cgop", "sc_threshold": "1000000000"},
        {},
    ),
    "mpeg2, interlaced": ("mpeg2video", "ts", {"g": "12", "bf": "2", "flags": "+ildct+ilme"}, {}),
    "mjpeg": ("mjpeg", "mov", {}, {"pix_fmt": "yuvj420p"}),
    "prores": ("prores_ks", "mov", {}, {"pix_fmt": "yuv422p10le"}),
    "dnxhd": ("dnxhd", "mov", {"profile": "dnxhr_lb"}, {"pix_fmt": "yuv422p", "size": (256, 120)}),
    "gif": ("gif", "gif", {}, {"pix_fmt": "rgb8"}),
}
REACHED = {"h264, closed groups", "hevc, closed groups", "vp9", "mpeg4", "mpeg2, closed groups", "mjpeg"}  # by seeking
IN_FULL = {"h264, avi", "mpeg4, avi", "vp8", "gif"}  # unknown times, or packets that show nothing


# What PyAV cannot write here: H.264 in separate fields (x264 makes frames of two fields alone), ProRes and DNxHD with
# fields of their own, VP9 of 10 bits (its libvpx has 8). Files of phones and broadcasters have them; of a stream in
# separate fields a packet shows half a frame, which its times tell, and all of it is decoded.


def write(path, codec, options, size=(96, 72), pix_fmt="yuv420p", rate=25, variable=False, container=None, frames=60):
    """A clip whose pictures move, so that every frame differs and refers to others."""
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000 if variable else rate)
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 255, (size[1] + 2 * frames, size[0] + 2 * frames, 3), np.uint8)
        time = 0
        for number in range(frames):
            picture = noise[number : number + size[1], 2 * number : 2 * number + size[0]] // 2
            picture[:, : 1 + number] += 90
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pts = time
            time += int(rng.integers(5, 90)) if variable else 1
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return str(path)


@pytest.fixture(scope="module")
def clip_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codecs")

    def make(name):
        codec, suffix, options, more = CASES[name]
        path = folder / f"{name}.{suffix}"
        return str(path) if path.exists() else write(path, codec, options, **more)

    return make


SAMPLINGS = [
    Sampling(policy="uniform", grid_fps=5, keep_every=1, max_frames=3),
    Sampling(policy="reference", grid_fps=5, keep_every=1, max_frames=12),
    Sampling(policy="uniform", grid_fps=5, keep_every=1, max_frames=25),
]
SEGMENTS = [[(None, None)], [(0.5, 1.0), (0.9, 1.7), (2.0, None)], [(1.23, 1.31)]]


def same(found, expected):
    assert type(found) is type(expected), (found, expected)
    if isinstance(found, Clip):
        assert (found.pictures == expected.pictures).all()
        assert found.times.tolist() == expected.times.tolist()
        said = ("rate", "decoded", "lost", "width", "height")
        assert [getattr(found, name) for name in said] == [getattr(expected, name) for name in said]


@pytest.mark.parametrize("name", CASES)
def test_the_same_clip_as_from_decoding_all(name, clip_of, monkeypatch):
    path = clip_of(name)
    found = [decode_segments(path, sampling, 48, cuts) for sampling in SAMPLINGS for cuts in SEGMENTS]
    assert {bool(c.in_full) for clips in found for c in clips if isinstance(c, Clip)} == {name in IN_FULL}
    monkeypatch.setattr(pyav, "_of_selected", lambda *given: None)
    expected = [decode_segments(path, sampling, 48, cuts) for sampling in SAMPLINGS for cuts in SEGMENTS]
    for clips, others in zip(found, expected, strict=True):
        for clip, other in zip(clips, others, strict=True):
            same(clip, other)


def plain(path, sampling):
    """Decoded in order with PyAV alone: indices and pictures."""
    with av.open(path) as container:
        stream = max(container.streams.video, key=lambda stream: stream.width * stream.height)
        frames = list(container.decode(stream))
        times = np.array([float(frame.pts * stream.time_base) for frame in frames])
        chosen = sampling.choose(times - times[0], float(stream.guessed_rate))
    pictures = Pictures(path, 48, np.unique(chosen))
    for index in np.unique(chosen).tolist():
        pictures.add(index, frames[index])
    return times[chosen] - times[0], pictures.take(chosen.tolist())


def cut_by_an_edit_list(source, target):
    """The first 17 frames are there, and not shown."""
    with av.open(source) as old, av.open(target, "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        shift = None
        for packet in old.demux(video=0):
            if packet.dts is None:
                continue
            shift = shift if shift is not None else packet.dts
            step = int(1 / (25 * packet.time_base))
            packet.pts, packet.dts, packet.stream = packet.pts - 17 * step, packet.dts - 17 * step, stream
            new.mux(packet)


def turned(source, target):
    """By a quarter: the matrix in the track's header says so."""
    data = bytearray(Path(source).read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    assert data[at : at + 4] == (1 << 16).to_bytes(4, "big")
    for place, value in enumerate((0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)):
        data[at + 4 * place : at + 4 * place + 4] = value.to_bytes(4, "big", signed=True)
    Path(target).write_bytes(data)


def two_streams(source, target):
    """A smaller one before it."""
    with av.open(source) as old, av.open(target, "w") as new:
        small = new.add_stream("mpeg4", rate=25)
        small.width, small.height, small.pix_fmt = 32, 24, "yuv420p"
        stream = new.add_stream_from_template(old.streams.video[0])
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), 4 * number, np.uint8), "rgb24")
            frame.pts = number
            new.mux(small.encode(frame))
        new.mux(small.encode(None))
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)


def two_sizes(source, target):
    """Another size of picture, with its own parameters, from the middle on."""
    with av.open(source) as first, av.open(target, "w") as new:
        stream = new.add_stream_from_template(first.streams.video[0])
        other = write(str(Path(target).with_suffix(".other.ts")), "libx264", {"x264-params": X264}, size=(64, 48))
        last = 0
        for path in (source, other):
            with av.open(path) as old:
                begin = last
                for packet in old.demux(video=0):
                    if packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + begin, packet.dts + begin
                        last = max(last, packet.pts + int(1 / (25 * packet.time_base)))
                        packet.stream = stream
                        new.mux(packet)


MADE_OF = {  # how, of which case, and where to
    "edit list": (cut_by_an_edit_list, "h264, closed groups", "mp4"),
    "turned": (turned, "h264, closed groups", "mp4"),
    "two streams": (two_streams, "h264, closed groups", "mkv"),
    "two sizes": (two_sizes, "h264, transport stream", "ts"),
}
TIMES_GUESSED = {"h264, avi", "mpeg4, avi"}


@pytest.mark.parametrize("name", [*(case for case in CASES if case not in TIMES_GUESSED), *MADE_OF])
def test_the_frames_of_a_plain_decode(name, clip_of, tmp_path, monkeypatch):
    """Kept in memory, and sought."""
    if name in MADE_OF:
        make, source, suffix = MADE_OF[name]
        path = str(tmp_path / f"{name}.{suffix}")
        make(clip_of(source), path)
    else:
        path = clip_of(name)
    for _ in range(2):
        for sampling in SAMPLINGS:
            times, pictures = plain(path, sampling)
            [clip] = decode_segments(path, sampling, 48, [(None, None)])
            assert np.allclose(clip.times, times, atol=1e-9)
            assert (clip.pictures == pictures).all()
        monkeypatch.setattr(packets, "HELD", 0)


def test_an_edit_list_leaves_frames_out(clip_of, tmp_path):
    path = tmp_path / "late.mp4"
    cut_by_an_edit_list(clip_of("h264, closed groups"), str(path))
    assert decode_segments(str(path), SAMPLINGS[0], 48, [(None, None)])[0].decoded < 60


@pytest.mark.parametrize("name", CASES)
def test_the_same_clip_from_a_long_file(name, clip_of, monkeypatch):
    """Which is not kept in memory, and of which a part is reached by seeking."""
    path = clip_of(name)
    cuts = [*SEGMENTS, [(0.7, 0.9)], [(2.2, None)]]
    expected = [decode_segments(path, sampling, 48, cut) for sampling in SAMPLINGS for cut in cuts]
    parts = []
    real = packets.read_part
    monkeypatch.setattr(packets, "HELD", 0)
    monkeypatch.setattr(packets, "LONG", 0)
    monkeypatch.setattr(pyav, "read_part", lambda *given: parts.append(real(*given)) or parts[-1])
    found = [decode_segments(path, sampling, 48, cut) for sampling in SAMPLINGS for cut in cuts]
    for clips, others in zip(found, expected, strict=True):
        for clip, other in zip(clips, others, strict=True):
            same(clip, other)
            assert isinstance(clip, DecodeError) or bool(clip.in_full) == (name in IN_FULL)
    if name in REACHED:
        reached = [part for part in parts if part is not None]
        assert reached and all(len(part.packets.pts) < 60 for part in reached)


@pytest.mark.parametrize("name", CASES)
def test_the_same_clip_on_several_threads(name, clip_of):
    path = clip_of(name)
    [clip], [other] = (decode_segments(path, SAMPLINGS[1], 48, [(None, None)], threads=n) for n in (1, 3))
    same(clip, other)


def test_less_is_decoded(clip_of, monkeypatch):
    """Of a clip with a key frame every 12 frames, one frame takes its group, as far as the frame."""
    sent = []
    monkeypatch.setattr(pyav, "select", lambda *given, **more: sent.append(select(*given, **more)) or sent[-1])
    sampling = Sampling(policy="uniform", grid_fps=5, keep_every=1, max_frames=1)
    decode_segments(clip_of("h264, closed groups"), sampling, 48, [(1.0, 1.08)])
    assert 0 < sent[0].send.sum() <= 12


@pytest.mark.parametrize("name", ["h264, closed groups", "hevc, closed groups", "vp9"])
def test_where_a_packet_fails_all_is_decoded(name, clip_of, tmp_path, monkeypatch):
    data = bytearray(Path(clip_of(name)).read_bytes())
    for place in range(len(data) // 3, len(data) // 2):
        data[place] ^= 0x55
    path = tmp_path / f"broken{Path(clip_of(name)).suffix}"
    path.write_bytes(data)
    [clip] = decode_segments(str(path), SAMPLINGS[2], 48, [(None, None)])
    assert clip.in_full, "a packet that fails, or a frame that does not come, is not passed over"
    assert clip.lost or clip.decoded < 60


@st.composite
def streams(draw):
    """Groups of packets, some with pictures that are shown before their group's start, and what is wanted."""
    pts, starts, at = [], [], 0
    for group in range(draw(st.integers(1, 5))):
        size, early = draw(st.integers(1, 6)), draw(st.integers(0, 2)) if group else 0
        inside = [at + early, *range(at, at + early), *draw(st.permutations(range(at + early + 1, at + early + size)))]
        pts += inside
        starts += [True, *[False] * (len(inside) - 1)]
        at += early + size
    return np.array(pts), np.array(starts), np.array(sorted(draw(st.sets(st.sampled_from(pts), min_size=1))))


@given(streams())
def test_what_is_sent_can_be_decoded(stream):
    pts, starts, wanted = stream
    found = select(pts, starts, wanted)
    assert set(pts[found.chosen]) == set(wanted)
    assert not (found.chosen & ~found.send).any()
    group = np.cumsum(starts) - 1
    for packet in np.flatnonzero(found.send):
        its = np.flatnonzero(group == group[packet])
        first = pts[its[0]]
        trailing = its[(its <= packet) & (pts[its] >= first)]
        assert found.send[trailing].all(), "all that came before it in its group"
        if pts[packet] < first:
            before = group == group[packet] - 1
            its = pts >= pts[np.flatnonzero(before)[0]]
            assert found.send[before & its].all(), "and the group before, where it reaches back"
            assert not found.fresh[group == group[packet]].any()
    for packet in np.flatnonzero(found.fresh):
        assert starts[packet], "the decoder begins anew at a random access point alone"


@pytest.mark.parametrize(
    ("pts", "starts"),
    [
        ([0, 1, 2], [False, True, False]),  # begins in the middle of a group
        ([2, 0, 1, 3], [True, False, False, False]),  # leading pictures with nothing before them
        ([0, 1, 1], [True, False, False]),  # two frames at one time
    ],
)
def test_streams_that_promise_nothing_are_decoded_in_full(pts, starts):
    assert select(np.array(pts), np.array(starts), np.array([1])) is None
