"""Every video once an epoch, with a caption drawn by seed, in an order that reads each shard once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip2video_pipe.pipeline.training.data import Epochs, Sample, ahead, share, window_of
from clip2video_pipe.stages.sampling import draw


def epochs(count, batch=4, workers=1, seed=0, window=100, shard=5):
    samples = [
        Sample(f"item{n}", f"shard{n // shard}", n % shard, ("one", "two", "three"), n // shard) for n in range(count)
    ]
    return Epochs(samples, batch, workers, seed, window)


@given(st.integers(2, 60), st.integers(2, 20), st.integers(1, 4), st.integers(0, 3), st.integers(1, 5))
def test_every_video_comes_once_an_epoch(count, batch, workers, epoch, window):
    if count < workers:
        return
    of = epochs(count, max(batch, workers), workers, window=window)
    found = of.batches(epoch)
    assert len(found) == len(of)
    assert sorted(np.concatenate(found).tolist()) == list(range(count))
    for one in found:
        parts = [share(one, worker, workers) for worker in range(workers)]
        assert np.concatenate([part for part, _ in parts]).tolist() == one.tolist()
        assert all(len(part) == sizes[worker] > 0 for worker, (part, sizes) in enumerate(parts))


def test_order_and_captions_follow_from_the_seed_and_differ_from_epoch_to_epoch():
    def drawn(seed, epoch):
        of = epochs(40, seed=seed)
        return np.concatenate(of.batches(epoch)).tolist(), of.captions(epoch).tolist()

    assert drawn(1, 0) == drawn(1, 0)
    for other in (drawn(2, 0), drawn(1, 1)):
        assert other[0] != drawn(1, 0)[0] and other[1] != drawn(1, 0)[1]
    counts = np.bincount(np.concatenate([epochs(40).captions(epoch) for epoch in range(50)]))
    assert len(counts) == 3 and counts.min() > 600  # of 2,000: each about a third


def test_a_window_is_read_before_the_next_one():
    order = np.concatenate(epochs(40, window=2).batches(0)).tolist()
    windows = [{n // 5 for n in order[start : start + 10]} for start in range(0, 40, 10)]
    assert [len(shards) for shards in windows] == [2, 2, 2, 2]
    assert set.union(*windows) == set(range(8))
    assert order[:10] != sorted(order[:10])


@pytest.mark.parametrize(("sizes", "budget", "window"), [([10, 30], 100, 3), ([500], 100, 1)])
def test_as_many_shards_as_memory_has_room_for(sizes, budget, window):
    assert window_of(sizes, budget) == window


def test_jitter_draws_one_picture_of_each_part():
    drawn = np.array([draw(9, 4, np.random.default_rng(n)) for n in range(200)])
    assert drawn.shape == (200, 4)
    assert (np.diff(drawn) > 0).all(), "in order"
    assert {tuple(sorted(set(column))) for column in drawn.T} == {(0, 1, 2), (3, 4), (5, 6), (7, 8)}
    assert draw(3, 4, np.random.default_rng(0)).tolist() == [0, 1, 2]


def test_what_is_made_ahead_comes_in_order_and_errors_come_through():
    def things():
        yield from range(3)
        raise ValueError("the end")

    coming = ahead(things())
    assert [next(coming) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the end"):
        next(coming)
