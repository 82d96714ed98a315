"""The report's plots: SVG to lie in the page, in the page's own colour of text, so that they suit light and dark."""

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

TEXT = "#123456"  # stands for the page's colour of text until the plot is made
LINES = ("#3b82f6", "#e8590c", "#2f9e44", "#ae3ec9", "#c2255c", "#1098ad")
WIDE, HIGH = 5.2, 3.1  # inches
MARKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 1000000)

Floats = npt.NDArray[np.floating]


def recall_curves(ranks: Mapping[str, Floats], published: Mapping[str, Mapping[str, float]]) -> str:
    """SVG: of each direction the per cent of queries whose own answer is among the best k; `published` as points."""
    figure, axes = _axes("best k", "per cent of queries")
    most = max(2.0, *(float(found.max()) for found in ranks.values()))
    k = np.unique(np.geomspace(1, most, 200).astype(np.int64))
    for colour, (name, found) in zip(LINES, ranks.items(), strict=False):
        within = np.searchsorted(np.sort(found), k, side="right") / len(found)
        axes.plot(k, 100 * within, color=colour, label=_said(name), linewidth=1.8)
        points = {int(figure[2:]): value for figure, value in published.get(name, {}).items() if figure[:2] == "R@"}
        axes.plot(
            [*points], [*points.values()], "o", color=colour, label=f"{_said(name)}, published" if points else None
        )
    axes.set_xscale("log")
    _marks(axes, most)
    axes.set_ylim(0, 102)
    axes.legend(frameon=False, labelcolor=TEXT, fontsize=8)
    return _svg(figure, "Recall at k")


def rank_histogram(ranks: Mapping[str, Floats]) -> str:
    """SVG: how many queries have their own answer at which rank, in bins that grow."""
    figure, axes = _axes("rank of the own answer", "queries")
    most = max(float(found.max()) for found in ranks.values())
    edges = [mark for mark in MARKS if mark < most] or [1]
    edges.append(max(edges[-1] + 1, int(most) + 1))
    width = 0.8 / len(ranks)
    for n, (colour, (name, found)) in enumerate(zip(LINES, ranks.items(), strict=False)):
        counts, _ = np.histogram(np.ceil(found), edges)  # a rank of 1.5, of a tie, is not the first
        axes.bar(np.arange(len(counts)) + (n + 0.5) * width - 0.4, counts, width, color=colour, label=_said(name))
    labels = [str(low) if high - low <= 1 else f"{low} to {high - 1}" for low, high in itertools.pairwise(edges)]
    axes.set_xticks(range(len(labels)), labels, fontsize=7, rotation=30 if len(labels) > 6 else 0)
    axes.legend(frameon=False, labelcolor=TEXT, fontsize=8)
    return _svg(figure, "Ranks")


def histogram(values: Floats, what: str) -> str:
    """SVG: how values of a unit, said by `what`, lie."""
    figure, axes = _axes(what, "videos")
    axes.hist(values, bins=min(40, max(5, len(np.unique(values)))), color=LINES[0])
    return _svg(figure, what)


def matrix(scores: Floats) -> str:
    """SVG: scores [captions, videos] as a picture, dark to bright."""
    figure, axes = _axes("videos", "captions", high=4.2)
    drawn = axes.imshow(scores, aspect="auto", interpolation="nearest", cmap="viridis")
    axes.set_xticks([])
    axes.set_yticks([])
    bar = figure.colorbar(drawn, ax=axes, fraction=0.04, pad=0.02)
    bar.ax.tick_params(colors=TEXT, labelsize=7)
    bar.outline.set_visible(False)
    return _svg(figure, "Scores of captions over videos")


def _axes(x: str, y: str, high: float = HIGH) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE, high), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.set_xlabel(x, color=TEXT, fontsize=9)
    axes.set_ylabel(y, color=TEXT, fontsize=9)
    axes.tick_params(colors=TEXT, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(TEXT)
    return figure, axes


def _marks(axes: Any, most: float) -> None:
    marks: Sequence[int] = [mark for mark in MARKS if mark <= most]
    axes.set_xticks(marks, [f"{mark:,}" for mark in marks], fontsize=7)
    axes.minorticks_off()


def _said(direction: str) -> str:
    return direction.replace("_", " ")


def _svg(figure: Any, title: str) -> str:
    """The figure as an element of a page: no file of its own, and a title for those who do not see it."""
    import matplotlib

    written = io.StringIO()
    # Text stays text; names of parts follow from the title, so that no two plots of a page share one.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}):
        none = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=none)
    text = written.getvalue()
    text = text[text.index("<svg") :].replace(TEXT, "currentColor")
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" class="plot" ', 1)
