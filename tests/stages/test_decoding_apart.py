"""Files that hang, blow up or crash a decoder, and the process that they do it to."""

import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest

from clip2video_pipe.stages import frames
from clip2video_pipe.stages.decoding import DecodeError, child, decode
from clip2video_pipe.stages.decoding.apart import Apart, Limits
from clip2video_pipe.stages.sampling import Sampling

SAMPLING = Sampling(max_frames=4)
AMPLE = Limits(60.0, 4 * 10**9)


@pytest.fixture
def apart():
    found = Apart()
    yield found
    found.close()


def ask(apart, path, limits=AMPLE, size=24):
    [clip] = apart.decode(limits, path, [(None, None)], sampling=SAMPLING, size=size)
    return clip


@pytest.fixture(scope="module")
def huge(tmp_path_factory):
    """A video of few bytes and enormous pictures: 12,000 pixels square, the same ones 100 times."""
    path = tmp_path_factory.mktemp("huge") / "huge.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mjpeg", rate=10)
        stream.width = stream.height = 12_000
        stream.pix_fmt = "yuvj420p"
        stream.time_base = Fraction(1, 1000)
        gray = av.VideoFrame.from_ndarray(np.full((18_000, 12_000), 128, np.uint8), "yuvj420p")
        gray.pts = 0
        [packet] = [*stream.encode(gray), *stream.encode(None)]
        data = bytes(packet)
        for number in range(100):
            copy = av.Packet(data)
            copy.stream, copy.is_keyframe, copy.time_base = stream, True, Fraction(1, 1000)
            copy.pts = copy.dts = 100 * number
            file.mux(copy)
    return str(path)


def test_the_same_clip_as_in_this_process(apart, write_video):
    path = write_video()
    clip, other = ask(apart, path), decode(path, SAMPLING, 24)
    assert (clip.pictures == other.pictures).all() and clip.times.tolist() == other.times.tolist()


def test_what_is_wrong_with_a_file_is_said_as_ever(apart, tmp_path):
    with pytest.raises(DecodeError, match=r"there is no such file") as caught:
        ask(apart, str(tmp_path / "none.mp4"))
    assert caught.value.failure == "missing"


def test_a_file_that_takes_too_long_is_given_up(apart, huge, write_video):
    with pytest.raises(DecodeError, match=r"within 0\.3 s \(run\.decode_timeout\)") as caught:
        ask(apart, huge, Limits(0.3, 4 * 10**9))
    assert caught.value.failure == "timeout"
    assert len(ask(apart, write_video()).times) == 4


def test_a_process_that_does_not_answer_is_killed(apart, write_video, monkeypatch):
    monkeypatch.setattr("clip2video_pipe.stages.decoding.apart.GRACE", 0.2)
    path = write_video()
    ask(apart, path)
    os.kill(apart._process.pid, signal.SIGSTOP)
    with pytest.raises(DecodeError) as caught:
        ask(apart, path, Limits(0.2, AMPLE.bytes))
    assert caught.value.failure == "timeout"
    assert len(ask(apart, path).times) == 4


def test_pictures_that_do_not_fit_in_memory(apart, huge, write_video):
    with pytest.raises(DecodeError, match=r"run\.decode_memory") as caught:
        ask(apart, huge, Limits(60.0, 256 << 20))
    assert caught.value.failure == "out-of-memory"
    assert len(ask(apart, write_video(), Limits(60.0, 256 << 20)).times) == 4


def test_a_file_that_kills_the_process_is_tried_twice(apart, huge, write_video, monkeypatch):
    killed = []
    start = apart._start

    class Deadly:
        """The connection to a process that dies as soon as it has been asked for something."""

        def __init__(self, connection):
            self.connection = connection

        def __getattr__(self, name):
            return getattr(self.connection, name)

        def send(self, asked):
            self.connection.send(asked)
            os.kill(apart._process.pid, signal.SIGSEGV)
            killed.append(apart._process.pid)

    def start_deadly(memory):
        start(memory)
        apart._connection = Deadly(apart._connection)

    with monkeypatch.context() as patch:
        patch.setattr(apart, "_start", start_deadly)
        with pytest.raises(DecodeError, match=r"SIGSEGV\) 2 times") as caught:
            ask(apart, huge)
    assert caught.value.failure == "crashed"
    assert len(set(killed)) == len(killed) == 2
    assert len(ask(apart, write_video()).times) == 4


def test_it_dies_with_the_process_that_started_it(tmp_path, huge):
    code = (
        "from clip2video_pipe.stages.decoding.apart import Apart, Limits\n"
        "from clip2video_pipe.stages.sampling import Sampling\n"
        "apart = Apart()\n"
        "apart._start(4 * 10**9)\n"
        "print(apart._process.pid, flush=True)\n"
        f"apart.decode(Limits(600.0, 4 * 10**9), {huge!r}, [(None, None)], sampling=Sampling(), size=24)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=tmp_path)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(300):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the process that decodes is still there")


def test_surprises_of_a_decoder_are_failures_of_the_file(monkeypatch):
    monkeypatch.setattr(child, "decode_segments", lambda **_: 1 / 0)
    answer = child._answer({"path": "a.mp4"})
    assert (answer.failure, str(answer)) == ("unreadable", "'a.mp4': ZeroDivisionError: division by zero")


def rows(stage, *paths):
    table = pa.table(
        {"item": list(map(str, paths)), "path": list(map(os.fsencode, paths)), "start": None, "end": None}
        | {name: pa.nulls(len(paths), pa.float64()) for name in ("start", "end")},
        frames.SOURCE,
    )
    return stage.process(table).to_pylist()


def test_neighbours_are_kept(huge, write_video):
    good = [write_video("a.mp4"), write_video("b.mp4")]
    stage = frames.Frames(sampling=SAMPLING, size=24, limits=Limits(60.0, 256 << 20))
    found = rows(stage, good[0], huge, good[1])
    assert [(row["status"], row["error"]) for row in found] == [("ok", None), ("failed", "out-of-memory"), ("ok", None)]
    assert all(len(found[n]["pictures"]) == 4 for n in (0, 2))


def damage(path):
    data = bytearray(Path(path).read_bytes())
    for place in range(len(data) // 3, len(data) // 2):
        data[place] ^= 0x55
    Path(path).write_bytes(data)
    return path


def test_damaged_clips_keep_what_decodes_unless_told_otherwise(write_video):
    path = damage(write_video("damaged.mp4", frames=60))
    common = {"sampling": SAMPLING, "size": 24}
    [kept] = rows(frames.Frames(**common), path)
    assert kept["status"] == "ok" and 0 < kept["lost"] < 60
    assert kept["message"].startswith(f"damaged: {kept['lost']} packets did not decode")
    [refused] = rows(frames.Frames(**common, damaged="fail"), path)
    assert (refused["error"], refused["pictures"]) == ("damaged", None)
    assert "sampling.damaged: fail" in refused["message"]


def test_a_clip_of_too_few_frames_fails(write_video):
    path = write_video(frames=5)
    [short] = rows(frames.Frames(sampling=SAMPLING, size=24, min_frames=4), path)
    assert (short["error"], short["pictures"]) == ("no-frames", None)
    assert "frames to look at, and sampling.min_frames is 4" in short["message"]
