"""The command `clip2video-pipe train`."""

import json

import typer
from rich.console import Console

from clip2video_pipe.pipeline.config import load_config_of
from clip2video_pipe.pipeline.options import AsJson, ConfigPath, Overrides
from clip2video_pipe.pipeline.progress import Reporter
from clip2video_pipe.pipeline.training.settings import TrainConfig


def train_model(
    context: typer.Context, config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Train a model on a dataset, or go on with a training that was stopped."""
    from clip2video_pipe.pipeline.training.train import train

    loaded = load_config_of(TrainConfig, config, overrides or [])
    reporter = Reporter(Console(stderr=True, quiet=as_json))
    with reporter:
        made = train(loaded, reporter)
    if as_json:
        typer.echo(json.dumps(made.card, ensure_ascii=False))
        return
    best = made.best
    typer.echo(f"{made.out}: best after epoch {best['epoch'] + 1}; card.json says all")
