"""The command `clip2video-pipe index`."""

import json
from typing import Annotated

import typer

from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.index import BEST, update
from clip2video_pipe.pipeline.options import AsJson, ConfigPath, Overrides
from clip2video_pipe.pipeline.search import Searcher
from clip2video_pipe.pipeline.words import several, sized


def index_vectors(
    config: ConfigPath,
    kind: Annotated[str, typer.Option("--kind", metavar="KIND", help="lance or faiss.")] = "lance",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Make an index of the videos' vectors for `search --index`, or add to it what is new."""
    searcher = Searcher(load_config(config, overrides or []))
    found = update(searcher.wanted(searcher.corpus()), kind)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    recall = "" if found["recall"] is None else f"; recall@{BEST} {found['recall']:.3f} against exact search"
    typer.echo(
        f"{found['path']}: {several(found['added'], 'vector')} {'built' if found['built'] else 'added'} in "
        f"{found['seconds']:.1f} s, {found['vectors']:,} in all, {sized(found['bytes'])}{recall}"
    )
