"""Videos behind addresses: the same pictures as of the file, and what is said when the connection is lost."""

import os
import pickle
from pathlib import Path

import av
import numpy as np
import pytest

from clip2video_pipe.manifests.addresses import Url
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.stages.datasets.durations import Durations
from clip2video_pipe.stages.decoding import DecodeError, decode, decode_segments
from clip2video_pipe.stages.decoding.durations import duration
from clip2video_pipe.stages.sampling import Sampling

SOME = Sampling("uniform", max_frames=5)
NAMES = ["clip.mp4", "clip.mkv", "clip.avi", "clip.ts"]


@pytest.fixture
def film(web, write_video):
    """A video of 3 MiB, larger than what is read at the first go; as a local path and as an address."""

    def make(name="clip.mp4", **options):
        path = write_video(name, frames=60, **options)
        if name.endswith(".mp4"):  # its index comes last, behind what is not looked at
            data = Path(path).read_bytes()
            at = data.index(b"mdat") - 4
            Path(path).write_bytes(data[:at] + (3 << 20).to_bytes(4) + b"free" + bytes((3 << 20) - 8) + data[at:])
            path = shifted(path)
        web.files["/" + name] = Path(path).read_bytes()
        return path, web.url(name, "?signature=secret")

    return make


def shifted(path):
    """The same file with chunk offsets that fit what was put before its pictures."""
    data = bytearray(Path(path).read_bytes())
    at = data.index(b"stco") + 8
    for n in range(int.from_bytes(data[at : at + 4])):
        here = at + 4 + 4 * n
        data[here : here + 4] = (int.from_bytes(data[here : here + 4]) + (3 << 20)).to_bytes(4)
    Path(path).write_bytes(data)
    return path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ranges", [True, False])
def test_pictures_are_those_of_the_file(film, web, name, ranges):
    path, url = film(name)
    web.knows_ranges = ranges
    here, there = (decode(where, SOME, 24) for where in (path, url))
    np.testing.assert_array_equal(here.pictures, there.pictures)
    np.testing.assert_array_equal(here.times, there.times)
    assert duration(Path(path)) == duration(Url(url))


def test_what_is_between_is_not_fetched(film, web):
    _, url = film()
    duration(Url(url))
    spans = [span.removeprefix("bytes=").split("-") for span in web.ranges]
    assert sum(int(stop) - int(start) + 1 for start, stop in spans) < len(web.files["/clip.mp4"])


def test_an_object_is_decoded_like_a_file(write_video, s3):
    path = write_video()
    s3.put("a clip.mp4", Path(path).read_bytes())
    np.testing.assert_array_equal(
        decode(path, SOME, 24).pictures, decode("s3://key:secret@bucket/a clip.mp4", SOME, 24).pictures
    )


def failure(url):
    with pytest.raises(DecodeError) as caught:
        decode_segments(url, SOME, 24, [(None, None), (0.0, 1.0)])
    error = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert "secret" not in str(error) and "secret" not in repr(error.__reduce__())
    return error.failure, error.passing, str(error)


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_lost_connection_is_of_the_moment_whenever_it_comes(film, web, monkeypatch, name, after):
    """However many requests went well before: ffmpeg's libraries may take it for damage or for the end."""
    _, url = film(name)
    monkeypatch.setattr("clip2video_pipe.manifests.remote.BLOCK", len(web.files["/" + name]) // 6)
    decode(url, SOME, 24)
    assert len(web.asked) > after
    web.statuses = [200] * after + [503] * 1000
    kind, passing, said = failure(url)
    assert (kind, passing) == ("unreadable", True) and "the connection was lost, tried 4 times" in said


def test_a_damaged_file_is_not_of_the_moment(web):
    web.files |= {"/noise.mp4": os.urandom(5000), "/empty.mp4": b""}
    assert failure(web.url("noise.mp4", "?signature=secret"))[:2] == ("unreadable", False)
    assert failure(web.url("empty.mp4"))[:2] == ("unreadable", False)


def test_refusals_and_changes_are_of_the_moment(film, web):
    _, url = film()
    web.statuses = [403]  # a signature that was valid when the file was listed
    assert failure(url)[:2] == ("unreadable", True)
    web.statuses = [200, 404]
    assert failure(url)[:2] == ("missing", True)
    web.statuses, web.knows_ranges = [200, 429, 429, 429, 429], False
    assert failure(url)[:2] == ("unreadable", True)


def test_an_object_that_changes_while_it_is_decoded_is_no_clip(write_video, s3, monkeypatch):
    data = Path(write_video()).read_bytes()
    monkeypatch.setattr("clip2video_pipe.manifests.remote.BLOCK", len(data) // 9)
    s3.put("clip.mp4", data)
    opened = av.open

    def change(*rest, **options):
        s3.put("clip.mp4", data + b"more")
        return opened(*rest, **options)

    monkeypatch.setattr(av, "open", change)
    kind, passing, said = failure("s3://bucket/clip.mp4")
    assert (kind, passing) == ("unreadable", True) and "changed while it was read" in said


@pytest.mark.parametrize(
    "playlist",
    ["#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{}'\n"],
)
def test_a_remote_file_opens_no_other(film, web, playlist):
    """A list of files from the web names none of this machine, and none of another's."""
    path, url = film("clip.ts")
    for name in (path, f"file:{path}", url):
        web.files["/list.m3u8"] = playlist.format(name).encode()
        web.asked.clear()
        assert failure(web.url("list.m3u8"))[0] == "unreadable"
        assert {asked for asked, _ in web.asked} == {"/list.m3u8"}


def test_a_duration_that_was_not_to_be_had_is_not_remembered(film, web, tmp_path):
    _, url = film()
    memory = Durations(Store(str(tmp_path / "store")))
    web.statuses = [200, 200] + [503] * 4
    assert memory.of([Url(url)]) == [None]
    assert memory.of([Url(url)]) == [pytest.approx(2.4)]


def test_an_interrupt_is_one_whatever_reads_at_the_time(film, web, monkeypatch):
    """A C library that calls back would print it, and go on as if the file ended there."""
    _, url = film()
    web.statuses = [200, 503]

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("clip2video_pipe.manifests.retries.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        decode(url, SOME, 24)
