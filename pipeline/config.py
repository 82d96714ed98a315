"""What a config file says: typed, checked at load, frozen."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clip2video_pipe.models.errors import WeightsError
from clip2video_pipe.models.presets import PRESETS, Variant
from clip2video_pipe.models.sources import PUBLISHED, find_clip, tensor_files
from clip2video_pipe.pipeline.errors import RequestError

Key = tuple[str | int, ...]


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TableDataset(Settings):
    """Videos and captions as rows of a .csv, .tsv, .jsonl or .parquet file."""

    kind: Literal["table"]
    path: str
    root: str = "."  # where relative video paths start
    digest: Literal["sampled", "full"] = "sampled"  # how much of a file its key is made from


class FolderDataset(Settings):
    """Every video below a folder; no captions, so no scores."""

    kind: Literal["folder"]
    path: str
    digest: Literal["sampled", "full"] = "sampled"


class SamplingSettings(Settings):
    """Which frames of a video are looked at (reference 1, 2)."""

    policy: Literal["reference", "uniform"] = "reference"
    grid_fps: float = Field(default=5, gt=0, le=1000)  # frames a second of the grid that is chosen from
    keep_every: int = Field(default=1, ge=1)  # of the grid
    max_frames: int = Field(default=12, ge=1)
    size: int | None = None  # pixels; the preset's own where it is not said
    decoder: Literal["av"] = "av"


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
    top_k: int = Field(default=10, ge=0)  # best matches kept of each query
    save_matrix: bool = True


class RunSettings(Settings):
    address: str = "local"  # of a Ray cluster; local: one of our own, on this machine
    engine: Literal["ray", "inline"] = "ray"
    shard_items: int = Field(default=64, ge=1)
    max_failure_rate: float = Field(default=0.05, ge=0, le=1)  # of the videos


class Config(Settings):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    dataset: Annotated[TableDataset | FolderDataset, Field(discriminator="kind")]
    model: ModelSettings
    sampling: SamplingSettings = SamplingSettings()
    embed: EmbedSettings = EmbedSettings()
    score: ScoreSettings = ScoreSettings()
    store: str = Field(default="artifacts", min_length=1)
    run: RunSettings = RunSettings()


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
            text = f"{said}.kind: is missing; one of 'table', 'folder'"
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
        folder = values["dataset"].get("kind") == "folder"
        return (FolderDataset if folder else TableDataset).model_fields
    settings = Config.model_fields[str(key[0])].annotation
    assert isinstance(settings, type) and issubclass(settings, Settings)
    return settings.model_fields


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
            raise RequestError(f"{source.place(key)}: {_dotted(key)}: {path!r}: {what}{hint}")

    need(("dataset", "path"), config.dataset.path, "file" if config.dataset.kind == "table" else "folder")
    if isinstance(config.dataset, TableDataset):
        need(("dataset", "root"), config.dataset.root, "folder")
    if config.model.clip is not None:
        try:
            tensor_files(find_clip(config.model.clip))
        except WeightsError as error:
            raise RequestError(f"{source.place(('model', 'clip'))}: model.clip: {error}") from error
    if config.model.checkpoint is not None:
        need(("model", "checkpoint"), config.model.checkpoint, "file")
    if "://" not in config.store and Path(config.store).exists():
        need(("store",), config.store, "folder")


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
