"""Scores that look at the whole query set: each adds to a score what its gallery entry has against all queries.

All work on logits `S` [queries, groups] as the model gives them, scale included, and only need one or two numbers a
group; so they are found in passes over the matrix, a block of queries at a time. Sums are in float64 and logarithms.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

PostMethod = Literal["dual-softmax", "qb-norm", "sinkhorn"]

BETA = 20.0  # of QB-Norm, over cosines
SINKHORN_PASSES = 10

Rows = Callable[[], Iterable["Tensor"]]  # the matrix, whole rows [queries, groups] a block at a time, from the start


@dataclass(frozen=True)
class DualSoftmax:
    """`S'_qj = S_qj * exp(S_qj) / sum_p exp(S_pj)` over the queries p (Cheng et al. 2021, arXiv 2109.04290)."""

    log_sums: "Tensor"  # float64 [groups]

    @classmethod
    def fit(cls, rows: Rows) -> "DualSoftmax":
        return cls(log_sum_exp(rows()))

    def __call__(self, scores: "Tensor", first: int) -> "Tensor":
        scores = scores.double()
        return scores * (scores - self.log_sums[first : first + scores.shape[1]]).exp()


@dataclass(frozen=True)
class QueryBank:
    """QB-Norm with the dynamic inverted softmax (Bogolin et al. 2022, arXiv 2112.12777).

    A query whose best group is the best one of some query of the bank is scored by
    `b * S_qj - log sum_p exp(b * S_pj)` over the bank's p; any other keeps `S_qj`. The paper's score is the exponential
    of the former, which ranks the same. `beta` is BETA over the logit scale: BETA is for cosines.
    """

    log_sums: "Tensor"  # float64 [groups]
    active: "Tensor"  # bool [groups]: best for some query of the bank
    beta: float

    @classmethod
    def fit(cls, bank: Rows, groups: int, beta: float) -> "QueryBank":
        import torch

        active = torch.zeros(groups, dtype=torch.bool)
        for scores in bank():
            active[scores.argmax(1)] = True
        return cls(log_sum_exp(beta * scores.double() for scores in bank()), active, beta)

    def __call__(self, scores: "Tensor", first: int) -> "Tensor":
        """Scores of queries whose best group is active."""
        return self.beta * scores.double() - self.log_sums[first : first + scores.shape[1]]


@dataclass(frozen=True)
class Sinkhorn:
    """`S'_qj = S_qj + g_j`: the plan between queries and groups of equal shares (Cuturi 2013, arXiv 1306.0895).

    `f_q = -log sum_j exp(S_qj + g_j)`, then `g_j = -log sum_q exp(S_qj + f_q)`, `passes` times from g = 0; f does not
    change the order of a row, and constants of the shares change nothing.
    """

    potentials: "Tensor"  # float64 [groups]

    @classmethod
    def fit(cls, rows: Rows, groups: int, passes: int) -> "Sinkhorn":
        import torch

        g = torch.zeros(groups, dtype=torch.float64)
        for _ in range(passes):
            balanced = (s.double() - torch.logsumexp(s.double() + g, 1, keepdim=True) for s in rows())
            g = -log_sum_exp(balanced)
        return cls(g)

    def __call__(self, scores: "Tensor", first: int) -> "Tensor":
        return scores.double() + self.potentials[first : first + scores.shape[1]]


def log_sum_exp(blocks: Iterable["Tensor"]) -> "Tensor":
    """float64 [groups]: logarithms of the sums of exponentials down the columns of all blocks [queries, groups]."""
    import torch

    total: Tensor | None = None
    for block in blocks:
        part = torch.logsumexp(block.double(), 0)
        total = part if total is None else torch.logaddexp(total, part)
    assert total is not None, "there are queries"
    return total
