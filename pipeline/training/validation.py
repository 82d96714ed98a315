"""How good a model is: a plain run of the pipeline over the validation videos, with its scoring and its figures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from clip2video_pipe.pipeline.progress import Reporter
from clip2video_pipe.pipeline.run import run
from clip2video_pipe.pipeline.settings import Config
from clip2video_pipe.pipeline.training.settings import TrainConfig

if TYPE_CHECKING:
    from clip2video_pipe.pipeline.training.loop import Training

KEPT = ("R@1", "R@5", "R@10", "MedianR", "MeanR", "rsum")


def config_of(config: TrainConfig, checkpoint: Path) -> Config:
    """What `run` needs to score a model that was trained by `config`."""
    said = config.model_dump(exclude={"train", "validation"})
    said["dataset"] = config.validation.model_dump() if config.validation else said["dataset"]
    said["name"] = f"{config.name}.validation"
    said["model"] |= {"checkpoint": str(checkpoint), "clip": None, "seed": None}
    said["run"] |= {"engine": "inline", "address": "local", "ship_code": False}
    said["embed"] |= {"precision": "float32"}
    return Config.model_validate(said)


def validate(training: "Training", checkpoint: Path) -> dict[str, Any]:
    """The figures of both directions; they are those that `run` gives for the same config."""
    reporter = Reporter(Console(quiet=True))
    metrics = run(config_of(training.config, checkpoint), reporter).metrics
    return {
        direction: {name: metrics[direction][name] for name in KEPT} for direction in ("text_to_video", "video_to_text")
    }
