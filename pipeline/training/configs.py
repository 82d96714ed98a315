"""The plain configs that a training runs parts of the pipeline by: to make frames, and to measure a model."""

from pathlib import Path
from typing import Any

from clip2video_pipe.pipeline.settings import Config
from clip2video_pipe.pipeline.training.settings import TrainConfig


def frames_config(config: TrainConfig) -> Config:
    """What to decode to train on."""
    return Config.model_validate(_to_decode(config))


def validation_config(config: TrainConfig) -> Config:
    """What to decode to measure by."""
    return Config.model_validate(_to_measure(config, _to_decode(config)))


def scoring_config(config: TrainConfig, checkpoint: Path) -> Config:
    """What `run` needs to score a model that was trained by `config`."""
    said = _to_measure(config, _plain(config))
    said["name"] = f"{config.name}.validation"
    said["model"] |= {"checkpoint": str(checkpoint), "clip": None, "seed": None}
    said["run"] |= {"engine": "inline", "address": "local", "ship_code": False}
    said["embed"] |= {"precision": "float32"}
    said["score"]["post"] = ()  # rows that choose no epoch
    return Config.model_validate(said)


def _plain(config: TrainConfig) -> dict[str, Any]:
    return config.model_dump(exclude={"train", "validation"}) | {"report": False}


def _to_decode(config: TrainConfig) -> dict[str, Any]:
    said = _plain(config)
    said["model"] |= {"clip": None, "checkpoint": None, "seed": 0}  # decoding asks for no weights
    said["score"]["post"] = ()
    said["run"]["keep_frames"] = True
    return said


def _to_measure(config: TrainConfig, said: dict[str, Any]) -> dict[str, Any]:
    """The same of the validation videos, whose frames are no matter of chance."""
    assert config.validation is not None
    said["dataset"] = config.validation.model_dump()
    if config.sampling.policy == "jitter":
        said["sampling"]["policy"] = "uniform"
    return said
