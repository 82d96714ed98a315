"""Windows over long videos, and how long videos are."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip2video_pipe.manifests import fingerprints
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.stages.datasets import Caption, Dataset, DatasetError, Video
from clip2video_pipe.stages.datasets.durations import Durations
from clip2video_pipe.stages.datasets.shapes import write_clips
from clip2video_pipe.stages.datasets.windows import cut, windows
from clip2video_pipe.stages.decoding.durations import duration


@pytest.mark.parametrize(
    ("seconds", "stride", "expected"),
    [
        (30, 10, [(0, 10), (10, 20), (20, 30)]),
        (31.5, 10, [(0, 10), (10, 20), (20, 30)]),
        (32, 10, [(0, 10), (10, 20), (20, 30), (30, None)]),
        (20, 5, [(0, 10), (5, 15), (10, 20)]),
        (23, 5, [(0, 10), (5, 15), (10, 20), (15, None)]),
        (25, 20, [(0, 10), (20, None)]),
        (1, 10, [(0, None)]),
    ],
)
def test_windows_cover_a_video(seconds, stride, expected):
    assert windows(seconds, 10, stride, 2) == expected


@given(st.floats(0.1, 100), st.floats(1, 20), st.floats(0.5, 1), st.floats(0.1, 1))
def test_no_more_than_the_shortest_is_left_out(seconds, length, step, least):
    found = windows(seconds, length, step * length, least)
    seen = 0.0
    for start, end in found:
        assert start <= seen + 1e-9
        seen = seconds if end is None else end
    assert seconds - seen < least + length * (1 - step) + 1e-9
    assert len(set(found)) == len(found)


def test_a_videos_windows_take_its_place():
    known = {"a": 25.0, "b": None, "c": 4.0}
    videos = (Video("a", Path("a")), Video("b", Path("b")), Video("c", Path("c")), Video("d", Path("a"), 1.0, 2.0))
    found = cut(Dataset(videos, ()), 10, 10, 2, lambda paths: [known[path.name] for path in paths])
    assert [video.video_id for video in found.videos] == [
        "a#t=0.0,10.0",
        "a#t=10.0,20.0",
        "a#t=20.0,",
        "b",
        "c#t=0.0,",
        "d",
    ]
    assert found.videos[1] == Video("a#t=10.0,20.0", Path("a"), 10.0, 20.0)


def test_captions_belong_to_whole_videos():
    dataset = Dataset((Video("a", Path("a")),), (Caption("a", "words"),))
    with pytest.raises(DatasetError, match=r"dataset\.segments: .* give rows with start and end"):
        cut(dataset, 10, 10, 2, lambda paths: [30.0])


def test_durations_of_real_files(clip_of):
    path = clip_of(seconds=1.5)
    assert duration(path) == pytest.approx(1.5, abs=0.11)
    bad = path.with_name("bad.mp4")
    bad.write_bytes(b"no video")
    assert duration(bad) is None
    assert duration(path.with_name("none.mp4")) is None


@pytest.mark.parametrize("container", ["mkv", "avi", "ts"])
def test_containers_that_say_it_elsewhere_or_nowhere(clip_of, container):
    assert duration(clip_of(seconds=2.0, container=container)) == pytest.approx(2.0, abs=0.11)


def test_durations_are_remembered(clip_of, tmp_path, monkeypatch):
    from clip2video_pipe.stages.datasets import durations

    monkeypatch.setattr(fingerprints, "SETTLED", -1.0)
    path, store = clip_of(seconds=1.0), Store(str(tmp_path / "store"))
    memory = Durations(store)
    first = memory.of([path])
    memory.save()
    monkeypatch.setattr(durations, "_read", lambda path: pytest.fail("it was opened"))
    assert Durations(store).of([path]) == first


@pytest.fixture
def clip_of(tmp_path):
    """Writes a clip of so many seconds at 10 frames a second, in a container."""

    def write(seconds, container="mp4"):
        import av
        import numpy as np

        if container == "mp4":
            write_clips(tmp_path, 1, 0, seconds=seconds, size=(64, 48), fps=10)
            return next(tmp_path.glob("*.mp4"))
        path = tmp_path / f"clip.{container}"
        with av.open(str(path), "w") as file:
            stream = file.add_stream("mpeg4" if container != "ts" else "mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(int(25 * seconds)):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8), "rgb24")
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        return path

    return write
