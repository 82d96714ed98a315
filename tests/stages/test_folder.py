"""Folders and globs of videos."""

from pathlib import Path

import pytest

from clip2video_pipe.stages.datasets import DatasetError
from clip2video_pipe.stages.datasets.folder import read_folder


@pytest.fixture
def films(tmp_path):
    for name in ("one/a.mp4", "one/deep/b.WEBM", "one/.hidden/c.mp4", "one/notes.txt", "two/a.mp4", "odd [1].mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def ids(*patterns):
    return [video.video_id for video in read_folder([str(pattern) for pattern in patterns]).videos]


def test_ids_are_paths_from_the_folder_and_names_of_files(films):
    assert ids(films / "one") == ["a.mp4", "deep/b.WEBM"]
    assert ids(films / "one" / "**" / "*.WEBM") == ["b.WEBM"]
    assert ids(films / "t*") == ["a.mp4"]
    assert ids(films / "odd [1].mp4") == ["odd [1].mp4"], "a path that is there stands for itself"


def test_what_is_no_video_is_counted(films):
    assert read_folder([str(films / "one")]).notes == (
        f"{films / 'one'}: 1 files are not named like videos and were passed over",
    )


def test_two_of_one_id_are_both_kept_and_told(films):
    found = read_folder([str(films / "one"), str(films / "two")])
    assert [video.video_id for video in found.videos] == ["a.mp4", "deep/b.WEBM", str(films / "two" / "a.mp4")]
    [gap] = found.gaps
    assert (gap.kind, Path(gap.id).parent.name) == ("id-twice", "two")
    assert ids(films / "one", films / "one") == ["a.mp4", "deep/b.WEBM"], "one file twice is one video"


def test_nothing_found_is_one_line(films):
    with pytest.raises(DatasetError, match=r"finds nothing"):
        ids(films / "x*")
    (films / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"no video among its 0 files; a video's name ends in one of .*\.mp4"):
        ids(films / "empty")
