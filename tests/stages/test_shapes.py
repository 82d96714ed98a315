import json
from dataclasses import replace

import av
import numpy as np
import pytest

from clip2video_pipe.stages.datasets import shapes
from clip2video_pipe.stages.datasets.shapes import COLOURS, MOTIONS, SHAPES, Background, Scene, write_clips

GREY = Background((60, 60, 60), (60, 60, 60), False)
SMALL = {"seconds": 0.5, "size": (96, 64), "fps": 10}


def rows_of(table):
    return [json.loads(line) for line in table.read_text().splitlines()]


def pixels(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def drawn(scene, frames=9):
    return np.stack(list(shapes.draw_clip(scene, frames, 96, 64)))


def test_clips_are_as_asked_for(tmp_path):
    table = write_clips(tmp_path / "new" / "clips", 3, seconds=2.0, size=(64, 48), fps=15)
    rows = rows_of(table)
    assert table.name == "clips.jsonl" and len(rows) == 3
    for row in rows:
        with av.open(str(table.parent / row["video"])) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height, stream.frames) == (64, 48, 30)
            assert (stream.average_rate, stream.codec_context.name) == (15, "h264")
            assert float(stream.duration * stream.time_base) == pytest.approx(2.0)


def test_every_clip_is_another_and_its_captions_say_which():
    scenes = shapes.scenes(60, 0)
    assert len({(scene.shape, scene.colour, scene.motion) for scene in scenes}) == 60
    for scene in scenes:
        captions = shapes.captions(scene)
        assert len(set(captions)) == 2
        for caption in captions:
            words = caption.replace(",", "").split()
            assert scene.shape in words and scene.colour in words
            assert any(phrase in caption for phrase in shapes.WORDS[scene.motion])


def test_the_same_seed_gives_the_same_frames(tmp_path):
    tables = {name: write_clips(tmp_path / name, 2, seed, **SMALL) for name, seed in (("a", 5), ("b", 5), ("c", 6))}
    rows = {name: rows_of(table) for name, table in tables.items()}
    assert rows["a"] == rows["b"] != rows["c"]
    for row in rows["a"]:
        np.testing.assert_array_equal(pixels(tmp_path / "a" / row["video"]), pixels(tmp_path / "b" / row["video"]))


def test_more_clips_begin_with_the_same():
    assert shapes.scenes(20, 1)[:8] == shapes.scenes(8, 1)


def test_a_second_run_writes_only_what_is_missing(tmp_path):
    table = write_clips(tmp_path, 3, **SMALL)
    first, second, _ = (tmp_path / row["video"] for row in rows_of(table))
    before, kept = table.read_text(), first.stat().st_mtime_ns
    content = second.read_bytes()
    second.unlink()
    write_clips(tmp_path, 3, **SMALL)
    assert (table.read_text(), first.stat().st_mtime_ns, second.read_bytes()) == (before, kept, content)
    assert len(list(tmp_path.iterdir())) == 4  # nothing temporary is left


def test_other_settings_never_reuse_a_clip(tmp_path):
    names = {row["video"] for row in rows_of(write_clips(tmp_path, 2, **SMALL))}
    larger = rows_of(write_clips(tmp_path, 2, **{**SMALL, "size": (128, 64)}))
    assert not names & {row["video"] for row in larger}


def test_what_fails_leaves_no_table(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError("no space")

    monkeypatch.setattr(shapes, "_encode", fails)
    with pytest.raises(OSError, match="no space"):
        write_clips(tmp_path, 2, **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("one", "other"), [("left", "right"), ("up", "down"), ("grows", "shrinks")])
def test_reverse_motions_differ_only_in_order(one, other):
    scene = Scene("star", "red", one, GREY, 0.3, -0.2)
    forwards, backwards = drawn(scene), drawn(replace(scene, motion=other))
    assert (forwards != backwards).any()
    np.testing.assert_array_equal(forwards, backwards[::-1])


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_stays_in_the_picture_in_its_colour(shape, motion):
    pictures = drawn(Scene(shape, "green", motion, GREY, 0.7, -0.7), 25)
    changed = (pictures != 60).any(-1)
    assert not (changed[:, [0, -1]].any() or changed[:, :, [0, -1]].any())
    seen = changed.any((1, 2))
    assert seen.all() == (motion != "blinks") and seen.any()
    assert ((pictures == COLOURS["green"]).all(-1).any((1, 2)) == seen).all()
    assert (np.diff(pictures.astype(int), axis=0) != 0).any()  # it moves


def test_shapes_are_told_apart():
    pictures = [drawn(Scene(shape, "green", "grows", GREY))[-1] for shape in SHAPES]
    for index, picture in enumerate(pictures):
        assert all((picture != other).any(-1).sum() > 40 for other in pictures[:index])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"count": 0}, "count"), ({"count": 9999}, "9999"), ({"size": (97, 64)}, "97"), ({"seconds": 0.0}, "0.0 s")],
)
def test_what_cannot_be_made_is_named(arguments, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        write_clips(tmp_path, **arguments)
    with pytest.raises(ValueError, match="purpel"):
        Scene("star", "purpel", "up", GREY)
