"""`clip2video-pipe status`: how the last run of a config went, or how far it is, once or until it ends."""

import json
import time
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.options import AsJson, ConfigPath, Overrides
from clip2video_pipe.pipeline.plan import open_store
from clip2video_pipe.pipeline.show import show_metrics
from clip2video_pipe.pipeline.status import last_run
from clip2video_pipe.pipeline.words import counted, duration

WATCH = "--watch"
EVERY = "2"  # seconds, where --watch does not say


class StatusCommand(TyperCommand):
    """A command whose `--watch` may leave out its seconds."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for at in [n for n, word in enumerate(args) if word == WATCH]:
            if not _is_number("".join(args[at + 1 : at + 2])):
                args = [*args[:at], f"{WATCH}={EVERY}", *args[at + 1 :]]
        return super().parse_args(ctx, args)


def status(
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
    watch: Annotated[
        float | None,
        typer.Option(
            WATCH, metavar="[SECONDS]", min=0.1, help=f"Look again every so often ({EVERY} s) until the run ends."
        ),
    ] = None,
) -> None:
    """Show how the last run of a config went, or how far it is."""
    if as_json and watch is not None:
        raise RequestError("status: --json is one object, --watch is for people; leave one of them out")
    loaded = load_config(config, overrides or [], files=False)
    store = open_store(loaded)
    if as_json:
        typer.echo(json.dumps(last_run(store, loaded.name), ensure_ascii=False))
        return
    console = Console()
    found = last_run(store, loaded.name)
    if watch is not None:
        try:
            found = _watched(console, store, loaded.name, found, watch)
        except KeyboardInterrupt:  # of who watches; the run goes on
            return
    console.print(shown(found))
    if found["metrics"]:
        show_metrics(console, found["metrics"])


def _watched(console: Console, store: Store, name: str, found: dict[str, Any], every: float) -> dict[str, Any]:
    with Live(shown(found), console=console, auto_refresh=False, transient=True) as live:
        while found["state"] == "running":
            time.sleep(every)
            found = last_run(store, name)
            live.update(shown(found), refresh=True)
    return found


def shown(found: dict[str, Any]) -> RenderableType:
    """What `last_run` gives, for people."""
    going = found["state"] == "running"
    head = f"{found['run_dir']}: {found['state']}"
    if found["seconds"] is not None:
        head += f", {'for' if going else 'after'} {duration(found['seconds'])}"
    parts: list[RenderableType] = [Text(head)]
    if any(row["status"] != "cached" for row in found["stages"]):
        parts.append(_table(found["stages"], going))
    elif found["state"] == "done":
        parts.append(Text("nothing had to be computed"))
    if going and found["seconds_to_go"]:
        parts.append(Text(f"about {duration(found['seconds_to_go'])} to go for these stages"))
    return Group(*parts)


def _table(rows: list[dict[str, Any]], going: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    in_flight = going or any(row["units"]["in_flight"] for row in rows)
    columns = ("stage", "status", "items", "done", "shards", *(("in flight", "left") if in_flight else ()), "rate")
    columns += ("to go",) if going else ()
    for column in (*columns, "failed"):
        left = column in ("stage", "status", "failed")
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "failed")
    for row in rows:
        units = row["units"]
        rate = (row["recent_rate"] if going else None) or row["rate"]
        cells = {
            "stage": row["stage"],
            "status": row["status"],
            "items": row["asked"] if row["asked"] is not None else row["items"],
            "done": row["there"] + row["done"],
            "shards": units["done"] or "",
            "in flight": units["in_flight"] or "",
            "left": units["left"] or "",
            "rate": f"{rate:.1f}/s" if rate else "",
            "to go": duration(row["seconds_to_go"]) if row["seconds_to_go"] is not None else "",
            "failed": ", ".join(filter(None, [counted(row["errors"]), _trouble(row)])),
        }
        table.add_row(*(str(cells[column]) for column in (*columns, "failed")))
    return table


def _trouble(row: dict[str, Any]) -> str:
    if not row["lost"]:
        return ""
    singly = f", {row['given_up']} of them item by item" if row["given_up"] else ""
    return f"{row['lost']} lost shards tried again{singly}"


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
