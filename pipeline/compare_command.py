"""The command `clip2video-pipe compare`."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from clip2video_pipe.pipeline.compare import compare
from clip2video_pipe.pipeline.options import AsJson
from clip2video_pipe.pipeline.words import number


def compare_runs(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Folders of runs, or configs: their last run.")],
    as_json: AsJson = False,
) -> None:
    """Show runs side by side: figures, the difference to the first, and a paired bootstrap of R@1."""
    found = compare(runs)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    console = Console()
    names = [run["name"] for run in found["runs"]]
    for direction, said in found["directions"].items():
        console.print(_table(direction.replace("_", " "), names, said))
        for name, pair in zip(names[1:], said["against_first"], strict=True):
            console.print(_verdict(names[0], name, pair), highlight=False, markup=False, soft_wrap=True)
        console.print()


def _table(title: str, names: list[str], said: Any) -> Table:
    table = Table(box=None, title=title, title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column(names[0], justify="right", overflow="fold")
    for name in names[1:]:
        table.add_column(name, justify="right", overflow="fold")
        table.add_column("", justify="right")
    for figure, values in said["figures"].items():
        cells = [number(figure, values[0])]
        for value in values[1:]:
            cells += [number(figure, value), _difference(figure, value, values[0])]
        table.add_row(figure, *cells)
    return table


def _difference(figure: str, value: float | None, first: float | None) -> str:
    if value is None or first is None or figure == "queries":
        return ""
    sign = "+" if value >= first else "-"
    return f"({sign}{number(figure, abs(value - first))})"


def _verdict(first: str, other: str, pair: Any) -> str:
    if not pair["shared"] + pair["only_in_other"]:
        return f"{other}: has no such scores"
    if not pair["shared"]:
        return f"{other}: shares no query with {first}, so their difference cannot be tested"
    alone = pair["only_in_first"] + pair["only_in_other"]
    beside = f"; {alone} queries are in one of the two alone" if alone else ""
    return f"{other}: R@1 differs from {first} with p = {pair['p']:.4f}, over {pair['shared']} queries{beside}"
