"""The commands `clip2video-pipe weights inspect | fetch`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from clip2video_pipe.models.sources import PUBLISHED, published
from clip2video_pipe.pipeline.options import AsJson

if TYPE_CHECKING:
    from clip2video_pipe.models.fetching import Report
    from clip2video_pipe.models.inspection import Description

weights = typer.Typer(no_args_is_help=True, help="Look into weights files, and fetch published ones.")


@weights.command()
def inspect(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A weights file or folder, or a name such as ViT-B/32.")],
    as_json: AsJson = False,
) -> None:
    """Show what a weights file is, which preset fits it, and what to write in a config. Runs nothing in it."""
    from clip2video_pipe.models.inspection import describe

    found = describe(file)
    if as_json:
        typer.echo(json.dumps(asdict(found), ensure_ascii=False))
        return
    for name, value in _lines(found):
        typer.echo(f"{name:<12} {value}")
    if found.model:
        typer.echo("\n" + yaml.safe_dump({"model": found.model}, sort_keys=False, allow_unicode=True).rstrip())


@weights.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"{', '.join(PUBLISHED)}.")],
    url: Annotated[str | None, typer.Option("--from", metavar="URL", help="Another address of the same file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch published weights into the cache folder and verify them; then `model.clip: NAME` means them."""
    from clip2video_pipe.models.fetching import fetch as fetch_weights

    preset = published(name).preset
    console = Console(stderr=True, quiet=as_json)

    def note(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    with _reported(console, name) as report:
        path, fetched = fetch_weights(name, url, report=report, note=note)
    if as_json:
        typer.echo(json.dumps({"name": name, "preset": preset, "path": str(path), "fetched": fetched}))
        return
    typer.echo(f"{path}: {'fetched and verified' if fetched else 'there already, and verified'}")
    typer.echo(f"in a config: preset: {preset}, clip: {name}")


def _lines(found: "Description") -> Iterator[tuple[str, str]]:
    what = {"clip": f"CLIP, {found.names} names", "clip2video": "a trained CLIP2Video"}.get(found.kind, "unknown")
    yield "path", found.path
    yield "kind", f"{what}, {found.container}"
    yield "bytes", f"{found.bytes:,}"
    for path, digest in found.sha256.items():
        yield "sha256", digest + (f"  {path}" if len(found.sha256) > 1 else "")
    types = ", ".join(f"{name} ({count:,})" for name, count in found.precision.items())
    yield "parameters", f"{found.parameters:,}: {types}"
    if size := found.size:
        image = f"{size.image_size} pixels, patches of {size.patch_size}"
        yield "image", f"{image}, width {size.vision_width}, {size.vision_layers} layers"
        text = f"{size.context_length} positions, {size.vocab_size:,} entries"
        yield "text", f"{text}, width {size.text_width}, {size.text_layers} layers"
        yield "vectors", str(size.embed_dim)
        yield "preset", found.preset or "none"
    for note in found.notes:
        yield "note", note


@contextmanager
def _reported(console: Console, name: str) -> Iterator["Report"]:
    """Shows how far a transfer is, on a terminal."""
    if not console.is_terminal or console.quiet:
        yield lambda there, total: None
        return
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=None)
        yield lambda there, total: progress.update(task, completed=there, total=total)
