"""The command `clip2video-pipe pairs`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.options import AsJson, ConfigPath, Overrides
from clip2video_pipe.pipeline.pairs import score_pairs
from clip2video_pipe.pipeline.plan import make_plan


def pairs_of_videos(
    config: ConfigPath,
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="JSON lines: two video ids, `video` and `other`.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Of videos that are alike, how often a caption scores higher for its own. The embeddings have to be there."""
    said = score_pairs(make_plan(load_config(config, overrides or []), again=False), pairs)
    if as_json:
        typer.echo(json.dumps(said))
        return
    typer.echo(f"{said['right']:.1f} % of {said['captions']} captions right in {said['pairs']} pairs (chance 50 %)")
