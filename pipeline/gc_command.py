"""The command `clip2video-pipe gc`."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.gc import Limits, collect
from clip2video_pipe.pipeline.options import AsJson, Overrides
from clip2video_pipe.pipeline.plan import make_plan
from clip2video_pipe.pipeline.words import sized

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def collect_garbage(
    configs: Annotated[list[Path], typer.Argument(metavar="CONFIG", help="All configs whose results are to stay.")],
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; without this, it is only counted.")] = False,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="TIME", help="Keep what is younger: 30m, 12h, 2d.")
    ] = "1h",
    keep_runs: Annotated[
        int | None, typer.Option("--runs", metavar="KEEP", min=1, help="Delete all but so many runs of each config.")
    ] = None,
    allow_gaps: Annotated[
        bool, typer.Option("--allow-gaps", help="Although videos cannot be read: what was made of them goes.")
    ] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Count, or delete, what lies in a store and none of these configs needs."""
    limits = Limits(_seconds(older_than), keep_runs)
    plans = [make_plan(load_config(path, overrides or []), again=False) for path in configs]
    found = collect(plans, limits, delete=delete, allow_gaps=allow_gaps)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    _show(Console(), found)


def _seconds(text: str) -> float:
    said = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not said:
        raise RequestError(f"gc: --older-than {text!r}: has to be a time such as 30m, 12h or 2d")
    return float(said[1]) * UNITS[said[2]]


def _show(console: Console, found: Any) -> None:
    gone = "deleted" if found["deleted"] else "to delete"
    table = Table(box=None)
    for column in ("", gone, "bytes", "kept", "bytes"):
        table.add_column(column, justify="right" if column else "left")
    rows = [row for row in found["rows"] if row["files"] or row["kept_files"]]
    for row in rows:
        kept = (str(row["kept_files"]), sized(row["kept_bytes"])) if row["kept_files"] else ("", "")
        table.add_row(row["what"], str(row["files"]), sized(row["bytes"]) if row["files"] else "", *kept)
    if rows:
        console.print(table)
    for note in found["notes"]:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    files, size = (sum(row[name] for row in rows) for name in ("files", "bytes"))
    line = f"{found['store']}: {files} {'file' if files == 1 else 'files'}, {sized(size)} {gone}"
    if files and not found["deleted"]:
        line += f"; --delete deletes {'it' if files == 1 else 'them'}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)
