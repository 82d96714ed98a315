"""The methods that use the whole query set, against their formulas written out in one matrix."""

import numpy as np
import pytest
import torch

from clip2video_pipe.stages.postprocessing import DualSoftmax, QueryBank, Sinkhorn, log_sum_exp

RNG = np.random.default_rng(0)
MATRIX = 30 * RNG.standard_normal((7, 5))


def rows(matrix):
    """The matrix in blocks of three rows, from the start each time."""
    return lambda: (torch.from_numpy(matrix[start : start + 3]) for start in range(0, len(matrix), 3))


def test_dual_softmax_weighs_a_score_with_its_share_among_all_queries():
    share = np.exp(MATRIX) / np.exp(MATRIX).sum(axis=0)
    post = DualSoftmax.fit(rows(MATRIX))
    assert post(torch.from_numpy(MATRIX), 0).numpy() == pytest.approx(MATRIX * share)
    assert post(torch.from_numpy(MATRIX[:, 2:4]), 2).numpy() == pytest.approx((MATRIX * share)[:, 2:4])


def test_a_query_bank_lowers_what_all_of_it_prefers():
    bank = RNG.standard_normal((9, 5))
    bank[:, 1] += 10
    post = QueryBank.fit(rows(bank), 5, 0.5)
    assert post.active.tolist() == [False, True, False, False, False]
    expected = np.exp(0.5 * MATRIX) / np.exp(0.5 * bank).sum(axis=0)
    assert post(torch.from_numpy(MATRIX), 0).numpy() == pytest.approx(np.log(expected))


def test_sinkhorn_gives_every_group_the_same_share():
    """With its potentials, and each row scaled to 1, the columns of exp(S + g) sum to equal parts."""
    scores = RNG.standard_normal((7, 5))
    post = Sinkhorn.fit(rows(scores), 5, 200)
    plan = np.exp(post(torch.from_numpy(scores), 0).numpy())
    plan /= plan.sum(axis=1, keepdims=True)
    assert plan.sum(axis=0) == pytest.approx(np.full(5, 7 / 5))


def test_sums_of_large_logits_do_not_overflow():
    blocks = [torch.full((2, 3), 1000.0), torch.full((1, 3), 1000.0)]
    assert log_sum_exp(blocks).numpy() == pytest.approx(1000 + np.log(3))
