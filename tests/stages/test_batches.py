"""Batches fit the device, and lose nothing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clip2video_pipe.stages.batches import Batches, by_length


@given(st.integers(0, 40), st.integers(1, 16), st.integers(1, 16))
def test_where_memory_runs_out_batches_are_halved_and_that_is_remembered(count, size, room):
    tried = []

    def compute(start, stop):
        tried.append(stop - start)
        if stop - start > room:
            raise torch.OutOfMemoryError
        return list(range(start, stop))

    batches = Batches(size)
    assert [item for part in batches.run(count, compute) for item in part] == list(range(count))
    tried.clear()
    batches.run(count, compute)
    assert all(taken <= room for taken in tried), "a size that failed is not tried again"


def test_an_item_that_does_not_fit_alone_is_an_error():
    def compute(start, stop):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        Batches(4).run(4, compute)


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 8), st.integers(1, 200))
def test_groups_hold_every_item_once_among_its_like_and_keep_to_the_budget(lengths, step, budget):
    groups = by_length(lengths, step, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        [rounded] = {-(-lengths[index] // step) * step for index in group}
        assert len(group) == 1 or len(group) * rounded <= budget
