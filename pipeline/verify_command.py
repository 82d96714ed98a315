"""The command `clip2video-pipe verify`."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from clip2video_pipe.manifests.store import Store, StoreError
from clip2video_pipe.pipeline import errors
from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.options import AsJson, Overrides
from clip2video_pipe.pipeline.plan import open_store
from clip2video_pipe.pipeline.verify import Progress, verify
from clip2video_pipe.pipeline.words import several, sized


def verify_stores(
    configs: Annotated[list[Path] | None, typer.Argument(metavar="CONFIG", help="Configs: their stores.")] = None,
    store: Annotated[str | None, typer.Option("--store", metavar="PATH", help="A store, without a config.")] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Delete what is damaged, so that the next run makes it anew.")
    ] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Read all of a store and check every digest. Exit code 1: there is damage that was not repaired."""
    stores = _stores(configs or [], overrides or [], store)
    found = []
    for one in stores:
        with _shown(Console(stderr=True, quiet=as_json)) as progress:
            found.append(verify(one, repair=repair, progress=progress))
        if not as_json:
            _print(found[-1])
    if as_json:
        typer.echo(json.dumps({"stores": found}, ensure_ascii=False))
    if not all(fault["repaired"] for said in found for fault in said["faults"]):
        raise typer.Exit(errors.FAULT)


def _stores(configs: Sequence[Path], overrides: Sequence[str], store: str | None) -> list[Store]:
    """Each store once. Raises RequestError."""
    if store is None and not configs:
        raise RequestError("verify: give a config, or --store and where it is")
    if overrides and not configs:
        raise RequestError("verify: --set changes settings of configs, and none is given")
    found = [open_store(load_config(path, overrides, files=False)) for path in configs]
    if store is not None:
        try:
            found.append(Store(store))
        except StoreError as error:
            raise RequestError(f"verify: {error}") from error
    return list({one.identity: one for one in found}.values())


def _print(said: Any) -> None:
    for fault in said["faults"]:
        dropped = "; deleted" if fault["repaired"] else ""
        typer.echo(f"{fault['what']} {fault['path']}: {fault['why']}{dropped}")
    read = {"shard": said["shards"], "manifest": said["manifests"], "other file": said["other_files"]}
    what = ", ".join(several(count, name) for name, count in read.items() if count) or "nothing is in it"
    typer.echo(f"{said['store']}: {what}, {sized(said['bytes'])}: {_verdict(said['faults'])}")
    if said["refused"]:
        typer.echo(said["refused"], err=True)


def _verdict(faults: Any) -> str:
    if not faults:
        return "sound"
    left = sum(not fault["repaired"] for fault in faults)
    them = "it" if len(faults) == 1 else "them"
    if not left:
        return f"{len(faults)} bad, deleted; the next 'run' makes {them} anew"
    return f"{len(faults)} bad; --repair deletes {them}, so that the next 'run' makes {them} anew"


@contextmanager
def _shown(console: Console) -> Iterator[Progress]:
    """Shows how much has been read, on a terminal."""
    if not console.is_terminal or console.quiet:
        yield lambda read, total: None
        return
    columns = (TextColumn("verify"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("verify", total=None)
        yield lambda read, total: bars.update(task, completed=read, total=total)
