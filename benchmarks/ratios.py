"""Ratios against an alternative that is timed in the same run."""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass


def seconds(*functions: Callable[[], object], repeats: int = 7) -> list[float]:
    """Median seconds of each function; they take turns, so that a machine that slows down slows all of them."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 1):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if turn:  # the first is a warm-up
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


@dataclass(frozen=True)
class Ratio:
    """A measured ratio and the bound that it is held to."""

    name: str
    value: float
    bound: float
    at_most: bool = False
    detail: str = ""

    @property
    def holds(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def conclude(ratios: list[Ratio]) -> None:
    """Print the ratios and exit: 1 where one falls short."""
    for ratio in ratios:
        word = "at most" if ratio.at_most else "at least"
        verdict = "" if ratio.holds else "   FALLS SHORT"
        print(f"{ratio.value:8.2f}   {word} {ratio.bound:<5}  {ratio.name}  ({ratio.detail}){verdict}")
    sys.exit(0 if all(ratio.holds for ratio in ratios) else 1)
