"""What is known of where items lie is a mapping, whatever came in what order, in rows of Arrow or one by one."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip2video_pipe.manifests import places as module
from clip2video_pipe.manifests.places import Place, Places, Written
from clip2video_pipe.manifests.schemas import FAILED, MANIFEST_ITEMS, OK
from clip2video_pipe.manifests.shards import Outcome, Shard, outcome_table
from clip2video_pipe.manifests.store import Stamp

STAMP = Stamp(1, 2)
OUTCOMES = [
    Outcome(OK),
    Outcome(OK, None, "damaged: a note"),
    Outcome(FAILED, "unreadable", "why"),
    Outcome(FAILED, "unreadable", "lost", True),
]
# Items of one length and of others, so that some begin alike.
ITEMS = st.lists(
    st.sampled_from([f"{head}{n}" for head in ("", "the same begin") for n in range(12)]), unique=True, min_size=1
)
ROWS = st.lists(
    st.tuples(ITEMS, st.lists(st.sampled_from(OUTCOMES), min_size=24, max_size=24), st.booleans()), max_size=6
)


def table(shard, items, outcomes):
    columns = {"shard": [shard] * len(items), "row": range(len(items))}
    return outcome_table(MANIFEST_ITEMS, items, outcomes, columns)


def worth(place):
    return (place.outcome.status != OK, place.outcome.passing, place.shard)


@pytest.mark.parametrize("settle", [1, 5, 1 << 16])
@given(rows=ROWS)
def test_it_answers_as_a_mapping_would(settle, rows):
    expected, found = {}, Places()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SETTLE", settle)
        for number, (items, outcomes, written_now) in enumerate(rows):
            name, outcomes = f"shard{number * 7 % 5}-{number}", outcomes[: len(items)]
            if written_now:
                found.add(Shard.of(name, outcomes, STAMP), items)
            else:
                found.merge(table(name, items, outcomes), {name: Written(len(items), STAMP)})
            for row, (item, outcome) in enumerate(zip(items, outcomes, strict=True)):
                place = Place(name, row, outcome)
                if written_now or item not in expected or worth(place) < worth(expected[item]):
                    expected[item] = place
            assert all(found[item] == place for item, place in expected.items())
        every = [f"{head}{n}" for head in ("", "the same begin") for n in range(12)]
        assert found.missing(every) == [item for item in every if item not in expected]
        assert [item in found for item in every] == [item in expected for item in every]
        assert len(found) == len(expected) and set(found) == set(expected)
        rows = found.table(list(expected)).to_pylist()
        assert [(r["shard"], r["row"], r["error"]) for r in rows] == [
            (p.shard, p.row, p.outcome.error) for p in expected.values()
        ]
        by_shard = {}
        for item, place in expected.items():
            by_shard.setdefault(place.shard, set()).add(item)
        assert {shard: set(items) for shard, items in found.by_shard()} == by_shard
        found.without(lambda outcome: outcome.passing)
        assert set(found) == {item for item, place in expected.items() if not place.outcome.passing}


def test_an_item_that_is_not_there_is_named():
    places = Places.of(table("one", ["a", "b"], OUTCOMES[:2]), {"one": Written(2, STAMP)})
    for ask in (lambda: places["c"], lambda: places.table(["a", "c"])):
        with pytest.raises(KeyError, match="c"):
            ask()


def test_nothing_is_known_at_first():
    places = Places()
    assert (len(places), list(places), places.missing(["a"]), "a" in places) == (0, [], ["a"], False)
    assert places.table([]).schema == MANIFEST_ITEMS
    places.merge(MANIFEST_ITEMS.empty_table(), {})
    assert not len(places) and isinstance(places.table([]), pa.Table)
