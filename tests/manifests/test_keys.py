"""Keys say what makes a result the same, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip2video_pipe.manifests import keys


def test_a_key_does_not_depend_on_the_order_of_settings():
    one = keys.stage_key("frames", 1, {"size": 224, "decoder": "av"}, {"a": "1", "b": "2"}, None)
    two = keys.stage_key("frames", 1, {"decoder": "av", "size": 224}, {"b": "2", "a": "1"}, None)
    assert one == two
    assert len(one) == keys.KEY_LENGTH


BASE = ("frames", 1, {"size": 224}, {"a": "1"}, "w")


@pytest.mark.parametrize(
    "changed",
    [
        ("other", 1, {"size": 224}, {"a": "1"}, "w"),
        ("frames", 2, {"size": 224}, {"a": "1"}, "w"),
        ("frames", 1, {"size": 64}, {"a": "1"}, "w"),
        ("frames", 1, {"size": 224}, {"a": "2"}, "w"),
        ("frames", 1, {"size": 224}, {"a": "1"}, "v"),
    ],
)
def test_each_part_of_a_stage_changes_its_key(changed):
    assert keys.stage_key(*changed) != keys.stage_key(*BASE)


def test_shards_and_manifests_of_the_same_items_have_names_of_their_own():
    items = ["a", "b"]
    names = {keys.shard_name("k", items), keys.manifest_hash("k", items), keys.shard_name("k", items[::-1])}
    assert len(names) == 3


def test_segments_of_one_video_differ_and_whole_numbers_do_not_matter():
    assert keys.video_key("c", 0, 5) == keys.video_key("c", 0.0, 5.0)
    assert len({keys.video_key("c", *s) for s in [(None, None), (0, 5), (0, 6), (1, 5), (0, None)]}) == 5


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        keys.digest({"weight": float("nan")})


def test_known_values_do_not_drift():
    """A change here makes every store in the world anew: raise a stage's version instead."""
    assert keys.caption_key("a red circle") == "ae52d4a2065ab9a55a764fc47a69c8c5"
    assert keys.stage_key("frames", 1, {"size": 224}, {}, None) == "8aa3619c3e46566b5b221c77181342c4"


@given(st.tuples(*[st.none() | st.text(st.characters(codec=None))] * 3))
def test_the_quick_way_gives_the_same_digest(values):
    names = ("caption", "error", "video_id")
    assert keys.digest_of(*names)(*values) == keys.digest(dict(zip(names, values, strict=True)))
