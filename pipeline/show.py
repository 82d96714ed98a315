"""How a run's results look on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from clip2video_pipe.pipeline.run import Result
from clip2video_pipe.pipeline.words import counted, duration, number, several, sized

RECALLS = ("R@1", "R@5", "R@10", "R@50", "R@100")
SHOWN = (*RECALLS, "MedianR", "MeanR", "MRR", "rsum", "queries")


def show_result(console: Console, result: Result) -> None:
    """Stages, metrics, and what has to be said beside them."""
    table = Table(box=None)
    for column in ("stage", "status", "items", "computed", "failed", "seconds"):
        table.add_column(column, justify="left" if column in ("stage", "status") else "right")
    for row in result.summary["stages"]:
        seconds = f"{row['seconds']:.1f}" if row["seconds"] else ""
        counts = (str(row[name]) for name in ("items", "computed", "failed"))
        table.add_row(row["stage"], row["status"], *counts, seconds)
    console.print(table)
    show_metrics(console, result.metrics, result.config.expected)
    if result.config.strict and result.gaps:
        _say(console, f"WARNING: the dataset has gaps: {counted(result.gaps)}; see missing.parquet")
    for warning in result.summary["warnings"]:
        _say(console, warning)
    if result.config.model.seed is not None:
        _say(
            console,
            f"The weights are untrained (model.seed: {result.config.model.seed}): these figures are chance, "
            "and show that the pipeline runs, no more.",
        )
    _say(console, f"written to {result.summary['run_dir']}")
    if result.summary.get("report"):
        _say(console, f"to look at: {result.summary['report']['path']}")


def show_plan(console: Console, title: str, stages: Sequence[Mapping[str, Any]], total: Mapping[str, Any]) -> None:
    """What a plan has of each stage, why the rest is missing, and what that would cost."""
    told = [row["estimate"] for row in stages if row["estimate"]]
    costs = ["seconds", "bytes"] if told else []
    costs += ["gpu_hours"] if total["gpu_hours"] is not None else []
    heads = {"reused": "there", "gpu_hours": "GPU-hours"}
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    counts = ["stage", "status", "items", "reused", "missing", "failed"]
    for name in [*counts, *costs]:
        table.add_column(heads.get(name, name), justify="left" if name in ("stage", "status") else "right")
    for row in stages:
        cells = ["" if row[name] is None else str(row[name]) for name in counts]
        table.add_row(*cells, *(_cost(row["estimate"], name) for name in costs))
    console.print(table)
    for row in stages:
        if row["why"]:
            _say(console, f"{row['stage']}: {row['why']}")
    unknown = [row["stage"] for row in stages if row["estimate"] and row["estimate"]["from"] is None]
    if len(unknown) < len(told):
        hours = "" if total["gpu_hours"] is None else f", {total['gpu_hours']:.2f} GPU-hours"
        least = "at least " if unknown else "about "
        _say(console, f"all: {least}{duration(total['seconds'])}, {sized(total['bytes'])}{hours}, by earlier runs")
    if unknown:
        _say(console, f"?: no earlier run in this store tells how long {', '.join(unknown)} takes")


def _cost(said: Mapping[str, Any] | None, name: str) -> str:
    """`?` where nothing tells it, nothing where there is nothing to tell."""
    if said is None:
        return ""
    if said["from"] is None:
        return "?"
    value = said[name]
    if value is None:
        return ""
    return sized(value) if name == "bytes" else f"{value:.2f}" if name == "gpu_hours" else f"{value:.1f}"


def show_metrics(console: Console, metrics: Any, expected: Any = None) -> None:
    """A row a direction, the published figures below it, and what the figures are over."""
    directions = [name for name in metrics if name != "coverage"]
    if directions:
        console.print(_figures(metrics, directions, expected or {}))
    for name in directions:
        _notes(console, name.replace("_", " "), metrics[name])
    if any("+" in name for name in directions):
        _say(console, "* uses the whole query set: no figure for queries that come one by one")
    coverage = metrics["coverage"]
    for name in ("videos", "captions"):
        if name in coverage:
            said = coverage[name]
            failed = f", {said['failed']} failed ({counted(said['errors'])})" if said["failed"] else ""
            _say(console, f"{name}: {said['ok']} of {said['asked']} ok{failed}")
    if coverage.get("decoding"):
        _say(console, f"of the videos that are ok: {counted(coverage['decoding'])}")
    if coverage.get("gaps"):
        _say(console, f"gaps: {counted(coverage['gaps'])}")


def _figures(metrics: Any, directions: list[str], expected: Mapping[str, Mapping[str, float]]) -> Table:
    names = [name for name in SHOWN if any(name in metrics[d] for d in directions)]
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)

    def row(label: str, figures: Mapping[str, float]) -> None:
        table.add_row(label, *(number(name, figures.get(name)) for name in names))

    for direction in (name for name in directions if "+" not in name):
        row(direction.replace("_", " "), metrics[direction])
        if direction in expected:
            row("  published", expected[direction])
        for name in directions:  # below what they change, so that the table fits a terminal of 80 columns
            if name.startswith(f"{direction}+"):
                row(f"  {name.partition('+')[2]} *", metrics[name])
    return table


def _notes(console: Console, direction: str, said: Any) -> None:
    parts = []
    if "R@1_low" in said and "whole_query_set" not in said:
        parts.append(f"R@1 between {said['R@1_low']:.1f} and {said['R@1_high']:.1f} (95 %)")
    if said.get("ties"):
        parts.append(several(said["ties"], "query shares its rank with others", "queries share their rank with others"))
    if said.get("non_finite"):
        parts.append(f"{several(said['non_finite'], 'query', 'queries')} left out, with scores that are not finite")
    if parts:
        _say(console, f"{direction}: {'; '.join(parts)}")


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
