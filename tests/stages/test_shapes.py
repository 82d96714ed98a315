import json
from dataclasses import replace

import av
import numpy as np
import pytest

from clip2video_pipe.stages.datasets.shapes import write_clips, write_splits, writing
from clip2video_pipe.stages.datasets.shapes.drawing import COLOURS, MOTIONS, SHAPES, TWO, Background, Scene, draw_clip
from clip2video_pipe.stages.datasets.shapes.scenes import KINDS, WORDS, scenes, split_scenes, still_captions
from clip2video_pipe.stages.sampling import middles

GREY = Background((60, 60, 60), (60, 60, 60), False)
SMALL = {"seconds": 0.5, "size": (96, 64), "fps": 10}


def rows_of(table):
    return [json.loads(line) for line in table.read_text().splitlines()]


def pixels(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def drawn(scene, frames=9):
    return np.stack(list(draw_clip(scene, frames, 96, 64)))


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
    found = scenes(60, 0)
    assert len({(told.scene.shape, told.scene.colour, told.scene.motion) for told in found}) == 60
    for told in found:
        assert len(set(told.captions)) == 2
        assert_is_told(told)


def assert_is_told(told):
    scene = told.scene
    for caption in told.captions:
        words = caption.replace(",", "").replace(":", "").split()
        assert scene.shape in words and scene.colour in words
        assert scene.other_shape is None or (scene.other_shape in words and scene.other_colour in words)
        assert any(phrase in caption for phrase in WORDS[scene.motion])


def test_the_same_seed_gives_the_same_frames(tmp_path):
    tables = {name: write_clips(tmp_path / name, 2, seed, **SMALL) for name, seed in (("a", 5), ("b", 5), ("c", 6))}
    rows = {name: rows_of(table) for name, table in tables.items()}
    assert rows["a"] == rows["b"] != rows["c"]
    for row in rows["a"]:
        np.testing.assert_array_equal(pixels(tmp_path / "a" / row["video"]), pixels(tmp_path / "b" / row["video"]))


def test_more_clips_begin_with_the_same():
    assert scenes(20, 1)[:8] == scenes(8, 1)


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

    monkeypatch.setattr(writing, "_encode", fails)
    with pytest.raises(OSError, match="no space"):
        write_clips(tmp_path, 2, **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("one", "other"), [kind for kind in KINDS if len(kind) == 2])
def test_reverse_motions_differ_only_in_order(one, other):
    scene = Scene("star", "red", one, GREY, 0.3, -0.2, "small", "ring", "blue")
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


@pytest.mark.parametrize("motion", TWO)
def test_two_shapes_are_nearer_at_one_end(motion):
    pictures = drawn(Scene("star", "red", motion, GREY, 0.0, 0.0, "small", "ring", "blue"), 12)
    far = [int(np.ptp(np.flatnonzero((picture != 60).any((0, 2))))) for picture in pictures]
    assert far == sorted(far, reverse=motion == "meet") and min(far) < 0.6 * max(far)


def test_splits_share_no_combination_and_tests_are_told_in_other_words():
    found = split_scenes(300, 40, 60, 0)
    assert {split: len(told) for split, told in found.items()} == {"train": 300, "val": 40, "test": 60}
    kind_of = {motion: kind for kind in KINDS for motion in kind}
    combinations = {
        split: {(told.scene.shape, told.scene.colour, kind_of[told.scene.motion]) for told in some}
        for split, some in found.items()
    }
    assert not combinations["train"] & (combinations["val"] | combinations["test"])
    assert not combinations["val"] & combinations["test"]
    assert (
        {told.scene.motion for told in found["train"]} == set(MOTIONS) == {told.scene.motion for told in found["test"]}
    )
    assert {told.scene.shape for told in found["train"]} == set(SHAPES)
    for split, some in found.items():
        for told in some:
            assert_is_told(told)
            assert split == "test" or not told.captions[0].startswith(("what", "meeting", "parting"))
    assert found == split_scenes(300, 40, 60, 0) != split_scenes(300, 40, 60, 1)


def test_pairs_of_a_test_are_the_same_pictures_in_the_other_order(tmp_path):
    write_splits(tmp_path, 0, test=10)
    pairs = rows_of(tmp_path / "test-pairs.jsonl")
    assert len(pairs) == 4
    for pair in pairs:
        chosen = []
        for name in (pair["video"], pair["other"]):
            pictures = pixels(tmp_path / name).astype(int)
            times = np.arange(len(pictures)) / writing.FPS
            chosen.append(pictures[middles(times, writing.FPS, 12)])
        # What the encoder loses differs a little, in and out of order.
        assert np.abs(chosen[0] - chosen[1][::-1]).mean() < 2 < np.abs(chosen[0] - chosen[1]).mean()


def test_stills_say_what_is_seen_at_their_moment(tmp_path):
    tables = write_splits(tmp_path, 0, train=6, val=2)
    assert [table.name for table in tables] == ["train.jsonl", "val.jsonl"]
    rows = rows_of(tmp_path / "train-stills.jsonl")
    assert len(rows) > 12 and all(row["end"] - row["start"] == pytest.approx(1 / writing.FPS) for row in rows)
    scene = Scene("star", "red", "left", GREY, 0.0, 0.0, "small")
    said = [dict(still_captions(scene, np.random.default_rng(n))) for n in range(30)]
    words = {moment: caption for some in said for moment, caption in some.items()}
    assert all("red star" in caption for caption in words.values())
    assert "at the right" in words[0] and "in the middle" in words[6] and "at the left" in words[11]


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
