"""The command `clip2video-pipe export`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.export import export
from clip2video_pipe.pipeline.options import AsJson, ConfigPath, Overrides
from clip2video_pipe.pipeline.plan import make_plan
from clip2video_pipe.pipeline.words import counted, several


def export_vectors(
    config: ConfigPath,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The videos' vectors: .parquet, .npy or .lance.")],
    captions: Annotated[
        Path | None, typer.Option("--captions", metavar="FILE", help="The captions' vectors, likewise.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write vectors whose dot products are the scores. Computes none: the embeddings have to be there."""
    plan = make_plan(load_config(config, overrides or []), again=False)
    found = export(plan, to, captions, force=force)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    for what, said in found.items():
        typer.echo(_line(what, said))


def _line(what: str, said: Any) -> str:
    one = what.removesuffix("s")
    line = f"{said['path']}: {several(said['rows'], one)}, vectors of {said['width']}"
    if "ids" in said:
        line += f"; which is which: {said['ids']}"
    if said["without"]:
        line += f"; {several(sum(said['without'].values()), f'{one} has', f'{what} have')} no vector: "
        line += counted(said["without"])
    return line
