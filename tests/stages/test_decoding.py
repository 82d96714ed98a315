"""Which frames come out of a file, when, and what is said where none do."""

import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from clip2video_pipe.stages.decoding import FAILURES, Clip, DecodeError, decode
from clip2video_pipe.stages.sampling import Sampling

ALL = Sampling("uniform", max_frames=1000)  # every frame
GRID = Sampling("reference", max_frames=1000)  # every file of the original's
CLIPS = sorted(json.loads((Path(__file__).parents[1] / "golden" / "ffmpeg_grid.json").read_text()))


@pytest.mark.parametrize("name", CLIPS)
def test_frames_are_ffmpegs(name, real_clip, golden_grid):
    expected = golden_grid[name]
    everything = decode(real_clip(name), ALL, 8)
    grid = decode(real_clip(name), GRID, 8)
    assert everything.decoded == len(everything.times) == expected["decoded_frames"]
    assert len(grid.times) == expected["grid_frames"]
    if expected["grid"] is not None:
        np.testing.assert_array_equal(grid.times, everything.times[expected["grid"]])
        np.testing.assert_array_equal(grid.pictures, everything.pictures[expected["grid"]])
    assert (everything.lost > 0) == (name == "corrupted.mp4")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")
@pytest.mark.parametrize("rate", [2, 10, 24, 50, Fraction(30000, 1001)])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_grid_is_what_the_program_writes(rate, name, write_video, numbers, tmp_path):
    path = write_video(name, frames=60, rate=rate)
    (tmp_path / "files").mkdir()
    subprocess.run(
        ["ffmpeg", "-v", "error", "-i", path, "-r", "5", "-q", "0", "files/%08d.jpg"], cwd=tmp_path, check=True
    )
    files = [av.open(str(file)) for file in sorted((tmp_path / "files").iterdir())]
    written = numbers(np.stack([next(file.decode(video=0)).to_ndarray(format="rgb24") for file in files]))
    assert numbers(decode(path, GRID, 48).pictures) == written


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("clip.mp4", "libx264"),
        ('it\'s a "clip" of 100%d.mkv', "libx264"),
        ("видео 影片: 1.mp4", "libx264"),
        ("clip.avi", "libx264"),  # no presentation times, and frames out of order
        ("clip.avi", "mpeg4"),
        ("clip.ts", "libx264"),
        ("clip.webm", "libvpx"),
    ],
)
def test_every_frame_comes_once_and_in_order(name, codec, write_video, numbers):
    clip = decode(write_video(name, streams=[(48, codec)]), ALL, 48)
    assert numbers(clip.pictures) == list(range(30))
    np.testing.assert_allclose(clip.times, np.arange(30) / 25, atol=1e-3)
    assert (clip.rate, clip.decoded, clip.lost, clip.width, clip.height) == (25, 30, 0, 48, 48)


def test_times_are_those_of_the_file(write_video, numbers):
    stamps = [500, 520, 620, 1500, 1540, 2000]
    clip = decode(write_video("clip.mkv", frames=6, stamps=stamps), ALL, 48)
    np.testing.assert_allclose(clip.times, np.array(stamps) / 1000 - 0.5, atol=1e-9)
    assert numbers(clip.pictures) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("start", "end", "frames"),
    [(None, None, (0, 30)), (0.4, None, (10, 30)), (None, 0.4, (0, 10)), (0.41, 0.81, (11, 21)), (0.0, 99.0, (0, 30))],
)
def test_a_segment_is_sampled_as_a_clip_of_its_own(start, end, frames, write_video, numbers):
    path = write_video()
    clip = decode(path, ALL, 48, start=start, end=end)
    assert numbers(clip.pictures) == list(range(*frames))
    assert clip.decoded == frames[1] - frames[0]
    np.testing.assert_allclose(clip.times, np.arange(clip.decoded) / 25, atol=1e-9)
    chosen = Sampling(max_frames=3).choose(clip.times, clip.rate)
    assert numbers(decode(path, Sampling(max_frames=3), 48, start=start, end=end).pictures) == [
        frames[0] + index for index in chosen
    ]


@pytest.mark.parametrize("streams", [[(48, "libx264"), (96, "libx264")], [(96, "mpeg4"), (48, "ffv1")]])
def test_of_two_streams_the_largest_is_taken(streams, write_video, numbers):
    clip = decode(write_video("clip.mkv", streams=streams), ALL, 48)
    assert (clip.width, clip.height) == (96, 96)
    assert numbers(clip.pictures) == list(range(30))


def test_a_repeated_frame_is_in_the_clip_twice(write_video, numbers):
    clip = decode(write_video(frames=2, rate=2), Sampling(max_frames=5), 48)
    assert numbers(clip.pictures) == [0, 0, 1, 1, 1]


def test_one_frame_and_odd_sizes(write_video):
    clip = decode(write_video("clip.mkv", frames=1, streams=[(49, "ffv1")]), Sampling(), 31)
    assert (clip.width, clip.height, clip.decoded) == (49, 49, 1)
    assert clip.pictures.shape == (1, 31, 31, 3)


def test_damaged_packets_are_skipped_and_counted(write_video, numbers):
    path = Path(write_video("clip.mkv", streams=[(48, "ffv1")]))
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    # Whole packets of nonsense: such frames are not decodable, the others are.
    data = path.read_bytes()
    for number in (3, 20):
        data = data.replace(packets[number], b"\xff" * len(packets[number]))
    path.write_bytes(data)
    clip = decode(str(path), ALL, 48)
    assert numbers(clip.pictures) == [number for number in range(30) if number not in (3, 20)]
    assert (clip.decoded, clip.lost) == (28, 2)
    np.testing.assert_allclose(clip.times[[2, 3]], [0.08, 0.16], atol=1e-9)
    assert decode(str(path), ALL, 48, start=0.4, end=0.8).lost == 0
    assert decode(str(path), ALL, 48, start=0.4).lost == 1


def test_what_is_there_of_a_cut_file_is_decoded(write_video, numbers):
    path = Path(write_video(frames=60, streams=[(96, "libx264")], container_options={"movflags": "faststart"}))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 9 // 10])
    clip = decode(str(path), ALL, 48)
    assert 5 < clip.decoded < 60
    assert numbers(clip.pictures)[:5] == [0, 1, 2, 3, 4]


def write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux([*stream.encode(frame), *stream.encode(None)])


def in_no_known_codec(path, video):
    path.write_bytes(Path(video).read_bytes().replace(b"avc1", b"zzzz"))


def all_bad(path, packets_of):
    with av.open(str(packets_of)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = Path(packets_of).read_bytes()
    for packet in packets:
        data = data.replace(packet, b"\xff" * len(packet))
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "failure", "said"),
    [
        (lambda path, video: None, "missing", "no such file"),
        (lambda path, video: path.mkdir(), "unreadable", "folder"),
        (lambda path, video: os.mkfifo(path), "unreadable", "not a regular file"),
        (lambda path, video: path.touch(), "unreadable", "empty"),
        (lambda path, video: path.write_text("a text\n" * 99), "unreadable", "cannot be opened"),
        (lambda path, video: path.write_bytes(Path(video()).read_bytes()[:-500]), "unreadable", "cannot be opened"),
        (lambda path, video: in_no_known_codec(path, video()), "unreadable", "no decoder"),
        (lambda path, video: write_sound(path), "no-video-stream", "audio"),
        (lambda path, video: all_bad(path, video("c.mkv", streams=[(48, "ffv1")])), "damaged", "30 packets"),
    ],
    ids=["missing", "folder", "pipe", "empty", "text", "cut", "codec", "sound", "all-bad"],
)
def test_failures_have_a_class_and_one_line(make, failure, said, write_video, tmp_path):
    path = tmp_path / "a\nname.mp4"
    make(path, write_video)
    with pytest.raises(DecodeError, match=said) as caught:
        decode(str(path), Sampling(), 32)
    assert caught.value.failure == failure and failure in FAILURES
    assert "name.mp4" in str(caught.value) and "\n" not in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert (str(again), again.failure) == (str(caught.value), failure)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_unreadable(write_video):
    path = write_video()
    Path(path).chmod(0)
    with pytest.raises(DecodeError, match="ermission") as caught:
        decode(path, Sampling(), 32)
    assert caught.value.failure == "unreadable"


@pytest.mark.parametrize(
    ("sampling", "segment"),
    [
        (Sampling(keep_every=2), {"end": 0.03}),
        (Sampling(), {"start": 50.0}),
        (Sampling(), {"start": 0.41, "end": 0.42}),
    ],
)
def test_no_frames_is_a_failure(sampling, segment, write_video):
    with pytest.raises(DecodeError) as caught:
        decode(write_video(), sampling, 32, **segment)
    assert caught.value.failure == "no-frames"


def test_messages_are_bounded():
    assert len(str(DecodeError("unreadable", "/long" * 999, "why " * 999))) <= 500


@pytest.mark.parametrize(
    "arguments",
    [{"start": 2.0, "end": 2.0}, {"start": -1.0}, {"end": math.nan}, {"size": 0}, {"decoder": "eyes"}],
)
def test_arguments_that_fit_no_video_are_errors(arguments, write_video):
    with pytest.raises(ValueError, match=r"size is|eyes"):
        decode(write_video(), Sampling(), **{"size": 32, **arguments})


def test_a_clip_checks_its_shapes():
    pictures, times = np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2)
    Clip(pictures, times, 25.0, 2, 0, 8, 8)
    for wrong in [(pictures[:1], times), (pictures[:, :4], times), (pictures * 1.0, times), (pictures[:0], times[:0])]:
        with pytest.raises(ValueError, match="pictures"):
            Clip(*wrong, 25.0, 2, 0, 8, 8)


def test_nothing_is_imported_before_it_is_needed():
    code = "import sys, clip2video_pipe.stages.decoding as d; sys.exit('av' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
