"""Ranks and metrics against the original's figures and against a plain sort."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clip2video_pipe.stages import ranking
from clip2video_pipe.stages.metrics import expected_rank, retrieval_metrics

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text())
NAMES = {"R@1": "R1", "R@5": "R5", "R@10": "R10", "MedianR": "MedianR", "MeanR": "MeanR"}


def ranks(scores, own):
    _, better, equal = ranking.standing(scores, np.asarray(own))
    return expected_rank(better, equal)


def matrices(case):
    """Text-to-video and video-to-text scores with each query's own column."""
    sim = np.array(GOLDEN[case]["sim"], dtype=np.float32)
    owner = np.array(GOLDEN[case].get("owner", np.arange(len(sim))))
    order = np.argsort(owner, kind="stable")
    starts = np.unique(owner[order], return_index=True)[1]
    grouped = ranking.group_maximum(np.ascontiguousarray(sim[order].T), starts)
    return {"t2v": (sim, owner), "v2t": (grouped, np.arange(len(grouped)))}


@pytest.mark.parametrize("direction", ["t2v", "v2t"])
@pytest.mark.parametrize("case", ["plain", "multi"])
def test_the_original_figures(case, direction):
    found = retrieval_metrics(ranks(*matrices(case)[direction]))
    said = GOLDEN[case][direction]
    for ours, theirs in NAMES.items():
        assert found[ours] == pytest.approx(said[theirs], abs=1e-5), ours
    theirs = GOLDEN[case].get(f"{direction}_ranks")
    if theirs:
        assert (ranks(*matrices(case)[direction]) - 1).tolist() == theirs


@st.composite
def problems(draw):
    queries, columns = draw(st.integers(1, 8)), draw(st.integers(1, 12))
    scores = draw(arrays(np.float32, (queries, columns), elements=st.integers(-3, 3).map(float)))
    own = draw(arrays(np.intp, queries, elements=st.integers(0, columns - 1)))
    return scores, own


@given(problems())
def test_a_rank_is_the_middle_of_the_places_that_a_sort_may_give(problem):
    scores, own = problem
    for row, column, rank in zip(scores, own, ranks(scores, own), strict=True):
        places = np.flatnonzero(np.sort(row)[::-1] == row[column]) + 1
        assert rank == places.mean()


@given(problems(), st.integers(0, 14))
def test_the_top_is_the_head_of_a_stable_sort(problem, k):
    scores, _ = problem
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert ranking.top(scores, k).tolist() == expected.tolist()


def test_without_queries_there_are_no_figures():
    assert retrieval_metrics(np.array([])) == {"queries": 0}
