"""Blockwise ranks against a plain sort, for any shape, ties and groups."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clip2video_pipe.stages.ranking import Gallery, rank, top
from clip2video_pipe.stages.vectors import Vectors

WHOLE = st.integers(-3, 3).map(float)  # products of these are exact: ties are ties


@st.composite
def problems(draw):
    """Queries, their own groups, gallery vectors, group sizes, and sizes of the blocks that it is cut into."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=8))
    queries = draw(arrays(np.float32, (draw(st.integers(1, 9)), 3), elements=WHOLE))
    vectors = draw(arrays(np.float32, (sum(sizes), 3), elements=WHOLE))
    own = draw(arrays(np.int64, len(queries), elements=st.integers(0, len(sizes) - 1)))
    return queries, own, vectors, np.array(sizes), draw(st.integers(1, 7)), draw(st.integers(1, 9))


def ranked(problem, k=3, in_memory=True, **options):
    queries, own, vectors, sizes, height, rows = problem
    stored = Vectors(len(vectors), 3, in_memory=in_memory)
    stored.put(np.arange(len(vectors)), vectors)
    gallery = Gallery(stored, np.concatenate([[0], np.cumsum(sizes)]), height)
    return rank(queries, own, gallery, k, rows=rows, **options)


def plain(problem):
    """Scores of queries over groups, and over members with each member's group."""
    queries, _, vectors, sizes, _, _ = problem
    group = np.repeat(np.arange(len(sizes)), sizes)
    members = queries @ vectors.T
    return np.stack([members[:, group == g].max(axis=1) for g in range(len(sizes))], axis=1), members, group


@given(problems(), st.booleans())
def test_ranks_are_the_places_that_a_sort_may_give(problem, in_memory):
    found = ranked(problem, in_memory=in_memory)
    groups, _, _ = plain(problem)
    for q, (row, own) in enumerate(zip(groups, problem[1], strict=True)):
        places = np.flatnonzero(np.sort(row)[::-1] == row[own])
        assert (found.better[q], found.better[q] + found.equal[q]) == (places[0], places[-1])
        assert found.score[q] == row[own]


@given(problems())
def test_in_the_pool_each_caption_of_another_video_counts(problem):
    found = ranked(problem)
    _, members, group = plain(problem)
    for q, (row, own) in enumerate(zip(members, problem[1], strict=True)):
        best, others = row[group == own].max(), row[group != own]
        assert (found.pool_better[q], found.pool_equal[q]) == ((others > best).sum(), (others == best).sum())


@given(problems(), st.integers(0, 10))
def test_the_top_is_the_head_of_a_stable_sort(problem, k):
    found = ranked(problem, k)
    groups, _, _ = plain(problem)
    expected = np.argsort(-groups, axis=1, kind="stable")[:, :k]
    assert found.top.tolist() == expected.tolist()
    assert found.top_scores.tolist() == np.take_along_axis(groups, expected, axis=1).tolist()


@given(problems())
def test_the_pieces_of_the_matrix_make_the_matrix(problem):
    groups, _, _ = plain(problem)
    matrix = np.full(groups.shape, np.nan)

    def keep(some, first, scores):
        matrix[some, first : first + scores.shape[1]] = scores

    ranked(problem, keep=keep)
    assert matrix.tolist() == groups.tolist()


@given(problems())
def test_adjusted_scores_are_the_ones_that_count(problem):
    found = ranked(problem, adjust=lambda scores, first: -scores)
    groups = -plain(problem)[0]
    own = groups[np.arange(len(groups)), problem[1]]
    assert found.better.tolist() == (groups > own[:, None]).sum(axis=1).tolist()


@given(arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=WHOLE), st.integers(0, 10))
def test_top_breaks_ties_by_column(scores, k):
    values, columns = top(torch.from_numpy(scores), k)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert columns.tolist() == expected.tolist()
    assert values.tolist() == np.take_along_axis(scores, expected, axis=1).tolist()


@pytest.mark.parametrize("single", [True, False])
def test_equal_vectors_get_equal_scores_wherever_they_lie(single):
    """To the bit, in any tile: a tie that rounding breaks would be a rank made of noise."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1500, 512)).astype(np.float32)
    copies = np.sort(rng.choice(1500, 200, replace=False))
    vectors[copies] = vectors[copies[0]]
    starts = np.arange(1501) if single else np.arange(0, 1501, 3)
    queries = rng.standard_normal((40, 512)).astype(np.float32)
    own = copies[:40] if single else copies[:40] // 3
    if not single:
        vectors = np.repeat(vectors[::3], 3, axis=0)  # a group is three copies
        vectors[np.isin(np.arange(1500) // 3, copies // 3)] = vectors[copies[0]]
    twins = len(np.unique(copies if single else copies // 3))
    found = rank(queries, own, Gallery(Vectors.of(vectors), starts, 128), 3, rows=7)
    assert set(found.equal.tolist()) == {twins - 1}


def test_what_is_not_finite_is_told():
    vectors = np.ones((3, 2), np.float32)
    vectors[1, 0] = np.nan
    queries = np.array([[1, 1], [0, 0]], np.float32)
    found = rank(queries, np.array([0, 2]), Gallery(Vectors.of(vectors), np.arange(4)), 1)
    assert found.finite.tolist() == [False, False]


def test_a_gallery_larger_than_memory_is_read_back_as_it_was():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((100, 5)).astype(np.float32)
    kept = Vectors(100, 5, in_memory=False)
    order = rng.permutation(100)
    kept.put(order[:60], rows[order[:60]])
    kept.put(order[60:], rows[order[60:]])
    assert (kept.read(17, 93) == rows[17:93]).all()
    assert (kept.take(order) == rows[order]).all()
