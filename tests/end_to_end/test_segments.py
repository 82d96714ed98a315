"""Long videos in windows, from the config to the vectors."""

import pytest

from clip2video_pipe.manifests.manifest import load
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.stages.datasets.shapes import write_clips


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A folder with one video of 7 seconds."""
    folder = tmp_path_factory.mktemp("long films")
    write_clips(folder, 1, 0, seconds=7.0, size=(96, 64), fps=10)
    return folder


def options(film, segments="{length: 3, stride: 3, shortest: 0.5}"):
    return ["--set", f"dataset={{kind: folder, path: '{film}', segments: {segments}}}"]


def pictures(project, result):
    """The sampled pictures of each video_id."""
    store = Store(str(project.store))
    stages = result["stages"]
    rows = load(store, "frames", stages["frames"]["manifest"]).table().to_pylist()
    by_item = {row["item"]: row["pictures"] for row in rows}
    listed = load(store, "videos", stages["videos"]["manifest"]).table().to_pylist()
    return {row["video_id"]: by_item[row["video"]] for row in listed}


def test_a_long_video_is_decoded_once(project, film, monkeypatch):
    from clip2video_pipe.stages import frames

    passes = []
    real = frames.decode_apart
    monkeypatch.setattr(frames, "decode_apart", lambda *given, **how: passes.append(given[1]) or real(*given, **how))
    result = project.run(*options(film))
    assert result["metrics"]["coverage"]["videos"]["ok"] == 3
    assert len(passes) == 1
    [name] = [path.name for path in film.glob("*.mp4")]
    assert list(pictures(project, result)) == [f"{name}#t=0.0,3.0", f"{name}#t=3.0,6.0", f"{name}#t=6.0,"]


def test_a_window_has_the_pictures_of_the_segment_alone(project, film):
    whole = pictures(project, project.run(*options(film)))
    [name] = [path.name for path in film.glob("*.mp4")]
    alone = project.elsewhere(project.folder / "elsewhere")
    rows = alone.rows({"video": str(film / name), "start": 3.0, "end": 6.0, "video_id": "alone"})
    found = pictures(alone, alone.run(rows))
    assert found["alone"] == whole[f"{name}#t=3.0,6.0"]
    overlapping = pictures(project, project.run(*options(film, "{length: 3, stride: 1.5}")))
    assert overlapping[f"{name}#t=3.0,6.0"] == found["alone"]


def test_a_second_run_is_cached_and_other_windows_reuse_the_same_ones(project, film):
    project.run(*options(film))
    again = project.run(*options(film))
    assert {stage["status"] for stage in again["stages"].values()} == {"cached"}
    assert project.computed(*options(film, "{length: 3, stride: 3, shortest: 2}")) == {}
    assert project.computed(*options(film, "{length: 3, stride: 1.5, shortest: 2}"))["frames"] == 2


def test_captions_and_segments_do_not_go_together(project):
    code, _, err = project.command("run", "--set", "dataset.segments={length: 3}")
    assert code == 2
    assert "captions" in err
    assert "start and end" in err
    code, _, err = project.command("run", "--set", "dataset.segments={length: 3, shortest: 4}")
    assert code == 2
    assert "longer than a window" in err
