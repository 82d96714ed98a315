"""What a config file says: typed, checked at load, frozen."""

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from clip2video_pipe.manifests.addresses import Url, is_remote, shown
from clip2video_pipe.models.errors import WeightsError
from clip2video_pipe.models.presets import PRESETS, Variant
from clip2video_pipe.models.sources import PUBLISHED, find_clip, tensor_files
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.stages.datasets.files import is_glob
from clip2video_pipe.stages.datasets.protocols import protocol
from clip2video_pipe.stages.metrics import Ties
from clip2video_pipe.stages.postprocessing import PostMethod

Key = tuple[str | int, ...]
Direction = Literal["text_to_video", "video_to_text"]
Figure = Literal["R@1", "R@5", "R@10", "R@50", "R@100", "MedianR", "MeanR"]


SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
LEAST_MEMORY = 16 << 20
LEAST_DECODER = 256 << 20  # what the libraries take, and room for a video


def _bytes(value: int | str) -> int:
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


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# One or several, each may be a glob.
Paths = Annotated[tuple[str, ...], BeforeValidator(_several), Field(min_length=1, strict=False)]


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

    policy: Literal["reference", "uniform"] = "reference"
    grid_fps: float = Field(default=5, gt=0, le=1000)  # frames a second of the grid that is chosen from
    keep_every: int = Field(default=1, ge=1)  # of the grid
    max_frames: int = Field(default=12, ge=1)
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
    memory: Annotated[int, BeforeValidator(_bytes)] = 2 * 10**9  # bytes; what a worker that scores may hold
    ties: Ties = "expected"
    post: Annotated[tuple[PostMethod, ...], BeforeValidator(_several)] = Field(
        default=(), strict=False
    )  # extra result rows: scores that use all queries
    query_bank: str | None = None  # for qb-norm: a file with a training caption a line; else the dataset's own


class RunSettings(Settings):
    address: str = "local"  # of a Ray cluster; local: one of our own, on this machine
    engine: Literal["ray", "inline"] = "ray"
    shard_items: int = Field(default=64, ge=1)
    max_failure_rate: float = Field(default=0.05, ge=0, le=1)  # of the videos
    keep_frames: bool = True  # or delete them as soon as they are embedded
    decode_timeout: float = Field(default=600, gt=0, le=10**6)  # seconds for a video, or a segment of one
    decode_memory: Annotated[int, BeforeValidator(_bytes), Field(ge=LEAST_DECODER)] = 4 * 10**9  # bytes, of a worker


class Config(Settings):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    dataset: Annotated[TableDataset | FolderDataset | ProtocolDataset, Field(discriminator="kind")]
    model: ModelSettings
    sampling: SamplingSettings = SamplingSettings()
    frames: FramesSettings = FramesSettings()
    embed: EmbedSettings = EmbedSettings()
    score: ScoreSettings = ScoreSettings()
    store: str = Field(default="artifacts", min_length=1)
    run: RunSettings = RunSettings()
    expected: dict[Direction, dict[Figure, float]] = {}  # published figures, to print beside the run's own
    strict: bool = False  # whether a gap in the dataset is a failure of the run


def load_config(path: Path, overrides: Sequence[str] = (), *, files: bool = True) -> Config:
    """Read a config; `overrides` are `a.b=value`, their values YAML; `files`: whether those it names must be there.

    Raises RequestError, one line that names the key, the line of the file and, for an unknown key, the nearest known.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise RequestError(f"config {str(path)!r}: {why}") from error
    source = _Source(str(path), text)
    for override in overrides:
        source.override(override)
    try:
        config = Config.model_validate(source.values)
    except ValidationError as error:
        raise RequestError(_explain(error, source)) from error
    if files:
        _check_files(config, source)
    _check_sense(config, source)
    return config


def public(value: Any) -> Any:
    """Settings as they may be kept and shown: of addresses, what may be secret is left out."""
    if isinstance(value, dict):
        return {name: public(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [public(inner) for inner in value]
    return shown(value) if isinstance(value, str) else value


class _Source:
    """A parsed YAML file, and where each of its keys was said."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._places: dict[Key, str] = {}
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            self._walk(node, ())
            self.values: Any = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{name}:{mark.line + 1}" if mark else name
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise RequestError(f"{where}: not YAML: {problem}") from error
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{name}: not YAML: {error}") from error
        if not isinstance(self.values, dict):
            raise RequestError(f"{name}: has to be a mapping of settings, such as 'name: demo'")

    def _walk(self, node: yaml.Node | None, key: Key) -> None:
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                place = f"{self._name}:{name.start_mark.line + 1}"
                below = (*key, str(name.value))
                if below in self._places:
                    raise RequestError(f"{place}: {_dotted(below)}: is said twice; keep one")
                self._places[below] = place
                self._walk(value, below)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._places[(*key, index)] = f"{self._name}:{value.start_mark.line + 1}"
                self._walk(value, (*key, index))

    def override(self, text: str) -> None:
        dotted, equals, value = text.partition("=")
        if not equals or not all(dotted.split(".")):
            raise RequestError(f"--set {text!r}: has to be key=value, such as sampling.max_frames=8")
        *folders, last = dotted.split(".")
        at = self.values
        for folder in folders:
            if at.get(folder) is None:
                at[folder] = {}
            at = at[folder]
            if not isinstance(at, dict):
                raise RequestError(f"--set {text!r}: {folder!r} holds {at!r}, not settings")
        try:
            at[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RequestError(f"--set {text!r}: the value is not YAML") from error
        self._places[tuple(dotted.split("."))] = f"--set {dotted}"

    def place(self, key: Key) -> str:
        """Where a key was said: the nearest above it that was."""
        while key and key not in self._places:
            key = key[:-1]
        return self._places.get(key, self._name)


def _explain(error: ValidationError, source: _Source) -> str:
    """The first problem in one line, and how many there are besides."""
    problems = error.errors(include_url=False)
    # An unknown key often explains the others (the right one is then missing), so it is told first.
    problem = min(problems, key=lambda p: p["type"] != "extra_forbidden")
    key = problem["loc"]
    if key[:1] == ("dataset",):
        key = (key[0], *key[2:])  # pydantic puts the kind between
    place, said = source.place(key), _dotted(key)
    match problem["type"]:
        case "extra_forbidden":
            text = f"{said}: unknown key{_nearest(str(key[-1]), _known(key[:-1], source.values))}"
        case "missing":
            text = f"{said}: is missing"
        case "model_type" | "model_attributes_type" | "dict_type":
            text = f"{said}: is {problem['input']!r}; it has to hold settings"
        case "union_tag_not_found":
            text = f"{said}.kind: is missing; one of {', '.join(map(repr, _kinds()))}"
        case "union_tag_invalid":
            context = problem["ctx"]
            text = f"{said}.kind: is {context['tag']!r}; one of {context['expected_tags']}"
        case _:
            text = f"{said}: is {problem['input']!r}; {_lower(problem['msg'])}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{place}: {text}{more}"


def _known(key: Key, values: Any) -> Iterable[str]:
    """The names that settings at `key` may have."""
    if not key:
        return Config.model_fields
    if key == ("dataset",):
        return _kinds()[values["dataset"]["kind"]].model_fields
    if key == ("dataset", "segments"):
        return Segments.model_fields
    settings = Config.model_fields[str(key[0])].annotation
    assert isinstance(settings, type) and issubclass(settings, Settings)
    return settings.model_fields


def _kinds() -> dict[str, type[Settings]]:
    """The dataset settings of each kind."""
    kinds = (TableDataset, FolderDataset, ProtocolDataset)
    return {kind: settings for settings in kinds for kind in get_args(settings.model_fields["kind"].annotation)}


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = get_close_matches(name, names, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(names)}"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _dotted(key: Key) -> str:
    return ".".join(map(str, key)) or "config"


def _check_files(config: Config, source: _Source) -> None:
    def need(key: Key, path: str, kind: Literal["file", "folder"]) -> None:
        found = Path(path)
        if not (found.is_file() if kind == "file" else found.is_dir()):
            what = f"is not a {kind}" if found.exists() else f"no such {kind}"
            hint = "" if found.is_absolute() else f" (relative paths start at {Path.cwd()})"
            raise RequestError(f"{source.place(key)}: {_dotted(key)}: {shown(path)!r}: {what}{hint}")

    def local(key: Key, path: str) -> None:
        if is_remote(path):
            said = f"{source.place(key)}: {_dotted(key)}: {shown(path)!r}"
            raise RequestError(f"{said}: has to be on this machine; only videos need not be")

    dataset = config.dataset
    if isinstance(dataset, ProtocolDataset):
        local(("dataset", "annotations"), dataset.annotations)
        need(("dataset", "annotations"), dataset.annotations, "folder")
        folders, key = dataset.videos, "videos"
    elif isinstance(dataset, TableDataset):
        for path in dataset.path:
            local(("dataset", "path"), path)
            if not is_glob(path):
                need(("dataset", "path"), path, "file")
        folders, key = dataset.root, "root"
    else:
        folders, key = tuple(path for path in dataset.path if is_remote(path) or not is_glob(path)), "path"
    for path in folders:
        if not is_remote(path):
            need(("dataset", key), path, "folder")
    if config.model.clip is not None:
        try:
            tensor_files(find_clip(config.model.clip))
        except WeightsError as error:
            raise RequestError(f"{source.place(('model', 'clip'))}: model.clip: {error}") from error
    if config.model.checkpoint is not None:
        need(("model", "checkpoint"), config.model.checkpoint, "file")
    if "://" not in config.store and Path(config.store).exists():
        need(("store",), config.store, "folder")


def _check_addresses(dataset: TableDataset | FolderDataset | ProtocolDataset, wrong: Callable[..., Exception]) -> None:
    """Addresses of videos: that they are some, and can be used as they are."""
    if isinstance(dataset, TableDataset):
        name, folders = "root", dataset.root
    else:
        name, folders = ("videos", dataset.videos) if isinstance(dataset, ProtocolDataset) else ("path", dataset.path)
    for number, folder in enumerate(folders):
        if not is_remote(folder):
            continue
        key = ("dataset", name)
        try:
            url = Url(folder)
        except ValueError as error:
            raise wrong(key, f"is {shown(folder)!r}; it {error}") from error
        if name == "root" and number < len(folders) - 1:
            raise wrong(key, f"{str(url)!r} has to come last: no address is asked whether it has a file")
        if name != "root" and not url.is_object:
            raise wrong(key, f"{str(url)!r}: a web server cannot be asked which files it has; name them in a table")
        if "*" in url.path:
            raise wrong(key, f"{str(url)!r}: there are no globs of addresses; give the folder")


def _check_sense(config: Config, source: _Source) -> None:
    """What single settings cannot say: that they go together."""

    def wrong(key: Key, text: str) -> RequestError:
        return RequestError(f"{source.place(key)}: {_dotted(key)}: {text}")

    model, sampling = config.model, config.sampling
    if model.preset not in PRESETS:
        raise wrong(("model", "preset"), f"is {model.preset!r}{_nearest(model.preset, PRESETS)}")
    size = PRESETS[model.preset]
    if model.clip in PUBLISHED and PUBLISHED[model.clip].preset != model.preset:
        right = PUBLISHED[model.clip].preset
        raise wrong(("model", "preset"), f"is {model.preset!r}, but {model.clip} is {right}: set model.preset: {right}")
    try:
        model.variant  # noqa: B018 - it checks itself
    except ValueError as error:
        raise wrong(("model", "alignment"), str(error)) from error
    if sampling.size not in (None, size.image_size):
        raise wrong(
            ("sampling", "size"),
            f"is {sampling.size}, but {model.preset} sees {size.image_size} pixels; leave it out",
        )
    for key, value in ((("sampling", "max_frames"), sampling.max_frames), (("model", "max_words"), model.max_words)):
        if value > size.context_length:
            raise wrong(key, f"is {value}; {model.preset} has {size.context_length} positions")
    if config.run.engine == "inline" and config.run.address != "local":
        raise wrong(("run", "address"), f"is {config.run.address!r}, but the inline engine runs here; use engine 'ray'")
    dataset, score = config.dataset, config.score
    _check_addresses(dataset, wrong)
    if isinstance(dataset, ProtocolDataset) and dataset.split not in protocol(dataset.kind).splits:
        has = ", ".join(protocol(dataset.kind).splits)
        raise wrong(("dataset", "split"), f"is {dataset.split!r}; {dataset.kind} has {has}")
    segments = None if isinstance(dataset, ProtocolDataset) else dataset.segments
    if segments and segments.shortest > segments.length:
        raise wrong(("dataset", "segments", "shortest"), f"is {segments.shortest}, longer than a window")
    if config.frames.quality is not None and config.frames.encoding == "raw":
        raise wrong(("frames", "quality"), "is for 'frames.encoding: jpeg'; raw pictures have none")
    if sampling.decoder == "decord" and find_spec("decord") is None:
        raise wrong(("sampling", "decoder"), "is 'decord', which is not installed; use 'av', or: pip install decord")
    if sampling.min_frames > sampling.max_frames:
        raise wrong(
            ("sampling", "min_frames"),
            f"is {sampling.min_frames}, but sampling.max_frames is {sampling.max_frames}: no clip has as many",
        )
    if len(set(score.post)) < len(score.post):
        raise wrong(("score", "post"), f"names a method twice: {', '.join(score.post)}")
    if score.query_bank is not None and "qb-norm" not in score.post:
        raise wrong(("score", "query_bank"), "is used by qb-norm alone; add it to score.post, or leave this out")
    if model.seed is not None and (model.clip or model.checkpoint):
        raise wrong(("model", "seed"), "untrained weights and a weights file cannot both be used; leave one out")
    if model.seed is None and not (model.clip or model.checkpoint):
        raise wrong(
            ("model",), "no weights: give 'checkpoint' (and 'clip'), or 'seed' for untrained ones to try things out"
        )
    if model.seed is None and not model.checkpoint and model.temporal != "mean":
        raise wrong(
            ("model", "temporal"),
            f"is {model.temporal!r} without a checkpoint, so it would be untrained; "
            "give 'checkpoint', or 'temporal: mean' and 'alignment: none' for plain CLIP",
        )
