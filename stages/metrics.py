"""Retrieval metrics from ranks."""

import numpy as np
import numpy.typing as npt

RECALLS = (1, 5, 10)


def expected_rank(better: npt.NDArray[np.int32], equal: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Rank from 1 of each query's own column; among equals, the middle of the places that they share."""
    return 1 + better + equal / 2


def retrieval_metrics(ranks: npt.NDArray[np.float64]) -> dict[str, float]:
    """`R@K` in per cent, median and mean rank, and how many queries they are over; without queries, only that."""
    if not len(ranks):
        return {"queries": 0}
    return {
        **{f"R@{k}": 100 * float(np.mean(ranks <= k)) for k in RECALLS},
        "MedianR": float(np.median(ranks)),
        "MeanR": float(np.mean(ranks)),
        "queries": len(ranks),
    }
