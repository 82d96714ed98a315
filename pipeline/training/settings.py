"""The settings of a training config: those of a run, and `train`. The defaults are CLIP4Clip's recipe (reference)."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from clip2video_pipe.pipeline.settings import (
    Config,
    Dataset,
    ProtocolDataset,
    Settings,
    TableDataset,
    one_or_several,
    size_in_bytes,
)

Part = Literal["embeddings", "image", "text", "scale"]
Parts = Annotated[tuple[Part, ...], BeforeValidator(one_or_several), Field(strict=False)]


class TrainSettings(Settings):
    out: str | None = None  # the folder of what is made; trained/<name> where it is not said
    epochs: int = Field(default=5, ge=1)
    batch: int = Field(default=128, ge=2)  # pairs of a video and a caption, over all workers
    micro_batch: int | None = Field(default=None, ge=1)  # pairs that a worker computes at a time; all where not said
    lr: float = Field(default=1e-4, ge=0)  # of the temporal modules
    clip_lr: float = Field(default=1e-7, ge=0)  # of CLIP's
    weight_decay: float = Field(default=0.2, ge=0)
    warm_up: float = Field(default=0.1, ge=0, lt=1)  # share of the steps
    clip_norm: float = Field(default=1.0, gt=0)  # of the gradient
    freeze: Parts = ("embeddings",)
    negatives: Literal["global", "local"] = "global"  # all pairs of a batch, or those of one's own worker
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of products; weights stay float32
    recompute: bool = False  # gradient checkpointing: less memory, a third more time
    seed: int = Field(default=0, ge=0, lt=2**63)  # of the order, the captions, and weights that no file gives
    validate_every: int = Field(default=1, ge=1)  # epochs; the last one is, too
    held_out: float = Field(default=0.05, gt=0, lt=1)  # of the videos, to validate on where `validation` is not said
    workers: int = Field(default=1, ge=1)  # processes, a GPU each where there are any
    threads: int | None = Field(default=None, ge=1)  # of a worker on a CPU; its share of the cores where not said
    memory: Annotated[int, BeforeValidator(size_in_bytes)] = 4 * 10**9  # bytes of pictures that a worker keeps
    save_every: float = Field(default=60.0, ge=0)  # seconds between checkpoints, besides one after each epoch


class TrainConfig(Config):
    trains: ClassVar[bool] = True

    validation: Annotated[TableDataset | ProtocolDataset, Field(discriminator="kind")] | None = None
    train: TrainSettings = TrainSettings()

    @property
    def datasets(self) -> dict[str, Dataset]:
        return super().datasets | ({"validation": self.validation} if self.validation else {})
