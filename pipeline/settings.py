"""The settings that a config file may say: typed, with their defaults, frozen."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from clip2video_pipe.models.presets import Variant
from clip2video_pipe.stages.metrics import Ties
from clip2video_pipe.stages.postprocessing import PostMethod

Direction = Literal["text_to_video", "video_to_text"]
Figure = Literal["R@1", "R@5", "R@10", "R@50", "R@100", "MedianR", "MeanR"]


SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
LEAST_MEMORY = 16 << 20
LEAST_DECODER = 256 << 20  # what the libraries take, and room for a video


def size_in_bytes(value: int | str) -> int:
    """A number of bytes, from `2GB`, `512 MiB` or a number."""
    said = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", str(value))
    if not said or said[2].upper() not in SIZES or said[1].count(".") > 1:
        raise ValueError("has to be a size in bytes, such as 2GB or 512 MiB")
    if len(said[1]) > 20:
        raise ValueError("has to be a size in bytes that a machine may have")
    found = int(float(said[1]) * SIZES[said[2].upper()])
    if found < LEAST_MEMORY:
        raise ValueError(f"has to be at least {LEAST_MEMORY >> 20} MiB")
    return found


def one_or_several(value: Any) -> Any:
    """A list, also where one thing was said."""
    return (value,) if isinstance(value, str) else value


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# One or several, each may be a glob.
Paths = Annotated[tuple[str, ...], BeforeValidator(one_or_several), Field(min_length=1, strict=False)]


class Segments(Settings):
    """Windows over long videos, in seconds: each is an item of its own."""

    length: float = Field(gt=0)
    stride: float | None = Field(default=None, gt=0)  # from one start to the next; `length` where it is not said
    shortest: float = Field(default=2, gt=0)  # of the last one


class TableDataset(Settings):
    """Videos and captions as rows of .csv, .tsv, .jsonl or .parquet files."""

    kind: Literal["table"]
    path: Paths
    root: Paths = (".",)  # where relative video paths start: the first folder that has the file
    segments: Segments | None = None
    digest: Literal["sampled", "full"] = "sampled"  # how much of a file its key is made from


class FolderDataset(Settings):
    """Every video below a folder, or that a glob finds; no captions, so no scores."""

    kind: Literal["folder"]
    path: Paths
    segments: Segments | None = None
    digest: Literal["sampled", "full"] = "sampled"


class ProtocolDataset(Settings):
    """A benchmark of the paper (`docs/protocols.md`): annotation files below one folder, videos below others."""

    kind: Literal["msrvtt-1ka", "msrvtt-full", "msvd", "vatex"]
    annotations: str
    videos: Paths
    split: Literal["train", "val", "test", "test-1k5"] = "test"
    digest: Literal["sampled", "full"] = "sampled"


class SamplingSettings(Settings):
    """Which frames of a video are looked at (reference 1, 2)."""

    policy: Literal["reference", "uniform", "jitter"] = "reference"  # jitter is for training
    grid_fps: float = Field(default=5, gt=0, le=1000)  # frames a second of the grid that is chosen from
    keep_every: int = Field(default=1, ge=1)  # of the grid
    max_frames: int = Field(default=12, ge=1)
    candidates: int = Field(default=3, ge=2)  # of jitter: frames kept for each one that a training step looks at
    size: int | None = None  # pixels; the preset's own where it is not said
    decoder: Literal["av", "decord"] = "av"
    min_frames: int = Field(default=1, ge=1)  # of a clip; with fewer that decode it fails
    damaged: Literal["keep", "fail"] = "keep"  # clips of which some packets do not decode


class FramesSettings(Settings):
    """How the pictures lie in the store, between decoding and embedding."""

    encoding: Literal["raw", "jpeg"] = "raw"
    quality: int | None = Field(default=None, ge=1, le=100)  # of JPEG; 95 where it is not said


class ModelSettings(Settings):
    """The model: sizes, variant and weights (reference 6-18)."""

    preset: str
    clip: str | None = None  # CLIP's weights: a file, a Hugging Face folder, or a published name (ViT-B/32)
    checkpoint: str | None = None  # a trained CLIP2Video
    seed: int | None = Field(default=None, ge=0, lt=2**63)  # untrained weights from this seed, in place of files
    temporal: Literal["mean", "transformer", "tdb"] = "tdb"
    difference: Literal["attention", "mlp", "subtract"] = "attention"
    alignment: Literal["none", "tab", "tab-tdb"] = "tab-tdb"
    centers: int = Field(default=5, ge=1)
    center_weight: float = Field(default=0.5, ge=0, le=1)  # of the global score
    max_words: int = Field(default=32, ge=3)  # tokens of a caption, its start and end included
    trained_on: Literal["msrvtt-9k", "msrvtt-full", "msvd", "vatex"] | None = None  # the checkpoint's training list

    @property
    def variant(self) -> Variant:
        return Variant(
            temporal=self.temporal,
            difference=self.difference,
            alignment=self.alignment,
            centers=self.centers,
        )


class EmbedSettings(Settings):
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_frames: int = Field(default=256, ge=1)  # pictures that a model sees at a time
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda)$")] = "auto"
    compile: bool = False  # torch.compile, on a GPU


class ScoreSettings(Settings):
    """How videos and captions are matched, and ranks counted (reference 15, 19, 20)."""

    top_k: int = Field(default=10, ge=0)  # best matches kept of each query
    save_matrix: bool = True
    memory: Annotated[int, BeforeValidator(size_in_bytes)] = 2 * 10**9  # bytes; what a worker that scores may hold
    ties: Ties = "expected"
    post: Annotated[tuple[PostMethod, ...], BeforeValidator(one_or_several)] = Field(
        default=(), strict=False
    )  # extra result rows: scores that use all queries
    query_bank: str | None = None  # for qb-norm: a file with a training caption a line; else the dataset's own


class RunSettings(Settings):
    address: str = Field(default="local", min_length=1)  # of a Ray cluster; local: one of our own, on this machine
    ship_code: bool = False  # send this package to the workers of a cluster that has its dependencies but not itself
    engine: Literal["ray", "inline"] = "ray"
    shard_items: int = Field(default=64, ge=1)
    max_failure_rate: float = Field(default=0.05, ge=0, le=1)  # of the videos
    keep_frames: bool = True  # or delete them as soon as they are embedded
    compute_timeout: float = Field(default=3600, gt=0, le=10**6)  # seconds for a batch of rows, not counting decoding
    decode_timeout: float = Field(default=600, gt=0, le=10**6)  # seconds for a video, or a segment of one
    decode_memory: Annotated[int, BeforeValidator(size_in_bytes), Field(ge=LEAST_DECODER)] = (
        4 * 10**9
    )  # bytes, of a worker


Dataset = TableDataset | FolderDataset | ProtocolDataset


class Config(Settings):
    trains: ClassVar[bool] = False  # whether the model is made, and not only used

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    dataset: Annotated[Dataset, Field(discriminator="kind")]
    model: ModelSettings
    sampling: SamplingSettings = SamplingSettings()
    frames: FramesSettings = FramesSettings()
    embed: EmbedSettings = EmbedSettings()
    score: ScoreSettings = ScoreSettings()
    store: str = Field(default="artifacts", min_length=1)
    run: RunSettings = RunSettings()
    expected: dict[Direction, dict[Figure, float]] = {}  # published figures, to print beside the run's own
    report: bool = True  # whether a run writes report.html
    strict: bool = False  # whether a gap in the dataset is a failure of the run

    @property
    def datasets(self) -> dict[str, "Dataset"]:
        """Those that it names, by key."""
        return {"dataset": self.dataset}
