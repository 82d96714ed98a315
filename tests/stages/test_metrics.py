"""Ranks and metrics against the original's figures and against formulas."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip2video_pipe.stages.metrics import paired_bootstrap, ranks, recall_interval, retrieval_metrics
from clip2video_pipe.stages.ranking import Gallery, rank
from clip2video_pipe.stages.vectors import Vectors

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text())
NAMES = {"R@1": "R1", "R@5": "R5", "R@10": "R10", "MedianR": "MedianR", "MeanR": "MeanR"}


def counts(case, direction):
    """`better`, `equal` and the own group of each query, out of the golden matrix by way of `rank`."""
    sim = np.array(GOLDEN[case]["sim"], dtype=np.float32)
    owner = np.array(GOLDEN[case].get("owner", np.arange(len(sim))))
    columns = np.eye(sim.shape[1], dtype=np.float32)  # a product with these gives the matrix itself
    if direction == "t2v":
        found = rank(sim, owner, Gallery(Vectors.of(columns), np.arange(sim.shape[1] + 1)), 1)
        return found.better, found.equal, owner
    order = np.argsort(owner, kind="stable")
    starts = np.append(np.unique(owner[order], return_index=True)[1], len(owner))
    own = np.arange(sim.shape[1])
    found = rank(columns, own, Gallery(Vectors.of(sim[order]), starts), 1)
    return found.better, found.equal, own


@pytest.mark.parametrize("direction", ["t2v", "v2t"])
@pytest.mark.parametrize("case", ["plain", "ties", "multi"])
def test_the_original_figures(case, direction):
    square = case != "multi" or direction == "v2t"
    ties = "original" if case == "ties" else "expected"
    better, equal, own = counts(case, direction)
    found = retrieval_metrics(better, equal, own, ties=ties, square=square)
    said = GOLDEN[case][direction]
    for ours, theirs in NAMES.items():
        assert found[ours] == pytest.approx(said[theirs], abs=1e-5), ours
    theirs = GOLDEN[case].get(f"{direction}_ranks")
    if theirs:
        assert sorted(ranks(better, equal, ties) - 1) == sorted(theirs)


@pytest.mark.parametrize("case", ["plain", "multi"])
def test_without_ties_the_original_counts_as_we_do(case):
    better, equal, own = counts(case, "v2t")
    assert retrieval_metrics(better, equal, own, ties="original") == retrieval_metrics(better, equal, own)


def test_of_several_captions_the_original_takes_the_lower_median():
    better, none = np.array([0, 1, 3, 8]), np.zeros(4, int)
    assert retrieval_metrics(better, none, none, ties="original", square=False)["MedianR"] == 2
    assert retrieval_metrics(better, none, none, square=False)["MedianR"] == 3


def test_of_several_captions_a_tie_has_one_rank():
    better, equal, groups = np.array([0, 0, 3]), np.array([1, 0, 0]), np.array([0, 0, 1])
    found = retrieval_metrics(better, equal, groups, ties="original", square=False)
    assert (found["R@1"], found["MeanR"], found["ties"]) == (pytest.approx(100 / 3), pytest.approx(6.5 / 3), 1)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1))
def test_the_policies_are_the_ends_and_the_middle_of_a_tie(pairs):
    better, equal = np.array(pairs).T
    first, last = ranks(better, equal, "optimistic"), ranks(better, equal, "pessimistic")
    assert (ranks(better, equal, "expected") == (first + last) / 2).all()
    places = [place for b, e in pairs for place in range(b + 1, b + e + 2)]
    assert ranks(better, equal, "original").tolist() == places


def test_figures_are_their_definitions():
    better = np.array([0, 0, 4, 9, 60, 200])
    found = retrieval_metrics(better, np.array([0, 2, 0, 0, 0, 0]), np.arange(6))
    assert [found[f"R@{k}"] for k in (1, 5, 10, 50, 100)] == pytest.approx([100 / 6, 50, 400 / 6, 400 / 6, 500 / 6])
    assert found["rsum"] == pytest.approx(100 / 6 + 50 + 400 / 6)
    assert found["MRR"] == pytest.approx((1 + 1 / 2 + 1 / 5 + 1 / 10 + 1 / 61 + 1 / 201) / 6)
    assert (found["queries"], found["ties"]) == (6, 1)


def test_the_interval_holds_what_the_binomial_says():
    hits = np.arange(1000) % 10 < 3
    low, high = recall_interval(hits, np.arange(1000))
    deviation = 100 * np.sqrt(0.3 * 0.7 / 1000)
    assert (low, high) == pytest.approx((30 - 1.96 * deviation, 30 + 1.96 * deviation), abs=0.3)


def test_captions_of_one_video_are_one_observation():
    """All 20 captions of a video hit or miss together: the interval is that of the videos."""
    hits = np.arange(100) % 2 == 0
    assert recall_interval(np.repeat(hits, 20), np.repeat(np.arange(100), 20)) == recall_interval(hits, np.arange(100))


def test_a_paired_difference_is_told_from_none():
    rng = np.random.default_rng(0)
    first = rng.random(500) < 0.5
    better = first | (rng.random(500) < 0.1)
    groups = np.arange(500)
    assert paired_bootstrap(first, first, groups) == 1
    assert 0 < paired_bootstrap(better, first, groups) < 0.001
    swapped = first.copy()
    swapped[:20] = ~swapped[:20]
    assert paired_bootstrap(swapped, first, groups) > 0.1


def test_without_queries_there_are_no_figures():
    none = np.empty(0, np.int32)
    assert retrieval_metrics(none, none, none) == {"queries": 0}
