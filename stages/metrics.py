"""Retrieval metrics from ranks: numpy alone, pure functions."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Ties = Literal["expected", "optimistic", "pessimistic", "original"]
Counts = npt.NDArray[np.integer]
Ranks = npt.NDArray[np.float64]

RECALLS = (1, 5, 10, 50, 100)
SUMMED = (1, 5, 10)  # in rsum
RESAMPLES = 10_000
SEED = 0


def ranks(better: Counts, equal: Counts, ties: Ties) -> Ranks:
    """Ranks from 1 of queries that `better` [queries] answers are above, and `equal` [queries] others are level with.

    `expected` is the mean of the places that the own answer and its equals take, `optimistic` the first and
    `pessimistic` the last of them. `original` gives a rank for each of these places, so there are more ranks than
    queries (reference 20).
    """
    match ties:
        case "expected":
            return np.asarray(1 + better + equal / 2, np.float64)
        case "optimistic":
            return np.asarray(1 + better, np.float64)
        case "pessimistic":
            return np.asarray(1 + better + equal, np.float64)
        case "original":
            places = equal + 1
            within = np.arange(places.sum()) - np.repeat(np.cumsum(places) - places, places)
            return np.asarray(1 + np.repeat(better, places) + within, np.float64)


def query_ranks(better: Counts, equal: Counts, ties: Ties) -> Ranks:
    """Ranks from 1, one a query: where the original has several, or any of a tie, it is the expected one."""
    return ranks(better, equal, "expected" if ties == "original" else ties)


def retrieval_metrics(
    better: Counts, equal: Counts, groups: Counts, *, ties: Ties = "expected", square: bool = True
) -> dict[str, Any]:
    """Recalls in per cent, MedianR, MeanR, MRR (0 to 1), rsum (R@1 + R@5 + R@10), queries, and how sure R@1 is.

    `groups` [queries] is the video of each query. `R@1_low` and `R@1_high` hold 95 % of the bootstrap: videos are drawn
    again, with all of their queries, because captions of one video are not independent. `ties` counts queries whose
    own answer shares its score. `square`: whether there are as many queries as answers; of others the original
    takes one rank a query, any of those in a tie (here: the expected one), and the lower median. Without queries there
    is only `queries`.
    """
    if not len(better):
        return {"queries": 0}
    of_queries = query_ranks(better, equal, ties)
    # In order: sums of the same ranks are then the same to the last bit, in whatever order the queries come.
    found = np.sort(ranks(better, equal, ties) if square else of_queries)
    recalls = {f"R@{k}": 100 * float(np.mean(found <= k)) for k in RECALLS}
    lower = ties == "original" and not square
    low, high = recall_interval(of_queries <= 1, groups)
    return {
        **recalls,
        "MedianR": float(np.quantile(found, 0.5, method="lower") if lower else np.median(found)),
        "MeanR": float(np.mean(found)),
        "MRR": float(np.mean(1 / found)),
        "rsum": sum(recalls[f"R@{k}"] for k in SUMMED),
        "queries": len(better),
        "R@1_low": low,
        "R@1_high": high,
        "ties": int(np.count_nonzero(equal)),
    }


def recall_interval(hits: npt.NDArray[np.bool_], groups: Counts) -> tuple[float, float]:
    """95 % percentile interval of the share of hits, in per cent, of drawn groups (Efron & Tibshirani 1993, ch. 13)."""
    drawn = 100 * _resampled_means(hits.astype(np.int64), groups)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def paired_bootstrap(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_], groups: Counts) -> float:
    """Two-sided p-value of the difference between two shares of hits on the same queries, never 0.

    How often the resampled difference is as far from the observed one as that is from none:
    `(1 + #{|d* - d| >= |d|}) / (1 + RESAMPLES)`, groups drawn with all their queries (Efron & Tibshirani 1993, ch. 16).
    """
    difference = first.astype(np.int64) - second.astype(np.int64)
    observed = float(difference.mean())
    drawn = _resampled_means(difference, groups)
    # Sums of whole numbers over sums of whole numbers: equal ones may differ in their last bit.
    return float((1 + np.count_nonzero(np.abs(drawn - observed) >= abs(observed) - 1e-12)) / (1 + RESAMPLES))


def _resampled_means(values: npt.NDArray[np.int64], groups: Counts) -> Ranks:
    """[RESAMPLES] means of whole-numbered values when groups are drawn with replacement.

    Groups with the same sum and the same size are one kind, and only how many of each kind are drawn matters: so the
    draw is multinomial over a few dozen kinds, whatever the number of queries.
    """
    _, at = np.unique(groups, return_inverse=True)
    sizes = np.bincount(at)
    sums = np.rint(np.bincount(at, weights=values)).astype(np.int64)
    kinds, counts = np.unique(np.stack([sums, sizes], axis=1), axis=0, return_counts=True)
    drawn = np.random.default_rng(SEED).multinomial(len(sizes), counts / len(sizes), RESAMPLES)
    means: Ranks = (drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1])
    return means
