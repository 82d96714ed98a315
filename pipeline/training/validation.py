"""How good a model is: a plain run of the pipeline over the validation videos, with its scoring and its figures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from clip2video_pipe.pipeline.progress import Reporter
from clip2video_pipe.pipeline.run import run
from clip2video_pipe.pipeline.training.configs import scoring_config

if TYPE_CHECKING:
    from clip2video_pipe.pipeline.training.loop import Training

KEPT = ("R@1", "R@5", "R@10", "MedianR", "MeanR", "rsum")


def validate(training: "Training", checkpoint: Path) -> dict[str, Any]:
    """The figures of both directions; they are those that `run` gives for the same config."""
    reporter = Reporter(Console(quiet=True))
    metrics = run(scoring_config(training.config, checkpoint), reporter).metrics
    return {
        direction: {name: metrics[direction][name] for name in KEPT} for direction in ("text_to_video", "video_to_text")
    }
