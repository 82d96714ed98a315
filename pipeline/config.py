"""A config file, read and checked: each fault in one line, with its place."""

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import ValidationError

from clip2video_pipe.manifests.addresses import Url, is_remote, shown
from clip2video_pipe.models.errors import WeightsError
from clip2video_pipe.models.presets import PRESETS
from clip2video_pipe.models.sources import PUBLISHED, find_checkpoint, find_clip, tensor_files
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.settings import (
    Config,
    Dataset,
    FolderDataset,
    ProtocolDataset,
    Segments,
    Settings,
    TableDataset,
)
from clip2video_pipe.stages.datasets.files import is_glob
from clip2video_pipe.stages.datasets.protocols import protocol

Key = tuple[str | int, ...]
AnyConfig = TypeVar("AnyConfig", bound=Config)


def load_config(path: Path, overrides: Sequence[str] = (), *, files: bool = True) -> Config:
    """Read the config of a run, as `load_config_of` does."""
    return load_config_of(Config, path, overrides, files=files)


def load_config_of(
    kind: type[AnyConfig], path: Path, overrides: Sequence[str] = (), *, files: bool = True
) -> AnyConfig:
    """Read a config of this kind.

    `overrides` are `a.b=value`, their values YAML; `files`: whether those that it names must be there.

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
        config = kind.model_validate(source.values)
    except ValidationError as error:
        raise RequestError(_explain(error, source, kind)) from error
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
            raise RequestError(f"--set {shown(text)!r}: has to be key=value, such as sampling.max_frames=8")
        *folders, last = dotted.split(".")
        at = self.values
        for folder in folders:
            if at.get(folder) is None:
                at[folder] = {}
            at = at[folder]
            if not isinstance(at, dict):
                raise RequestError(f"--set {dotted}: {folder!r} holds {public(at)!r}, not settings")
        try:
            at[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RequestError(f"--set {dotted}: the value is not YAML") from error
        self._places[tuple(dotted.split("."))] = f"--set {dotted}"

    def place(self, key: Key) -> str:
        """Where a key was said: the nearest above it that was."""
        while key and key not in self._places:
            key = key[:-1]
        return self._places.get(key, self._name)


def _explain(error: ValidationError, source: _Source, kind: type[Config]) -> str:
    """The first problem in one line, and how many there are besides."""
    problems = error.errors(include_url=False)
    # An unknown key often explains the others (the right one is then missing), so it is told first.
    problem = min(problems, key=lambda p: p["type"] != "extra_forbidden")
    key = problem["loc"]
    if key[:1] in (("dataset",), ("validation",)):
        key = (key[0], *key[2:])  # pydantic puts the kind between
    place, said = source.place(key), _dotted(key)
    match problem["type"]:
        case "extra_forbidden":
            text = f"{said}: unknown key{_nearest(str(key[-1]), _known(key[:-1], source.values, kind))}"
        case "missing":
            text = f"{said}: is missing"
        case "model_type" | "model_attributes_type" | "dict_type":
            text = f"{said}: is {public(problem['input'])!r}; it has to hold settings"
        case "union_tag_not_found":
            text = f"{said}.kind: is missing; one of {', '.join(map(repr, _kinds()))}"
        case "union_tag_invalid":
            context = problem["ctx"]
            text = f"{said}.kind: is {context['tag']!r}; one of {context['expected_tags']}"
        case _:
            text = f"{said}: is {public(problem['input'])!r}; {_lower(problem['msg'])}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{place}: {text}{more}"


def _known(key: Key, values: Any, kind: type[Config]) -> Iterable[str]:
    """The names that settings at `key` may have."""
    if not key:
        return kind.model_fields
    if key in (("dataset",), ("validation",)):
        return _kinds()[values[key[0]]["kind"]].model_fields
    if key[1:] == ("segments",):
        return Segments.model_fields
    settings = kind.model_fields[str(key[0])].annotation
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

    for said, dataset in config.datasets.items():
        if isinstance(dataset, ProtocolDataset):
            local((said, "annotations"), dataset.annotations)
            need((said, "annotations"), dataset.annotations, "folder")
            folders, key = dataset.videos, "videos"
        elif isinstance(dataset, TableDataset):
            for path in dataset.path:
                local((said, "path"), path)
                if not is_glob(path):
                    need((said, "path"), path, "file")
            folders, key = dataset.root, "root"
        else:
            folders, key = tuple(path for path in dataset.path if is_remote(path) or not is_glob(path)), "path"
        for path in folders:
            if not is_remote(path):
                need((said, key), path, "folder")
    if config.model.clip is not None:
        try:
            tensor_files(find_clip(config.model.clip))
        except WeightsError as error:
            raise RequestError(f"{source.place(('model', 'clip'))}: model.clip: {error}") from error
    if config.model.checkpoint is not None:
        need(("model", "checkpoint"), str(find_checkpoint(config.model.checkpoint)), "file")
    if "://" not in config.store and Path(config.store).exists():
        need(("store",), config.store, "folder")


def _check_dataset(said: str, dataset: Dataset, wrong: Callable[..., Exception]) -> None:
    """That a dataset has the split, that its windows can be, and that addresses of videos can be used as they are."""
    if isinstance(dataset, ProtocolDataset) and dataset.split not in protocol(dataset.kind).splits:
        has = ", ".join(protocol(dataset.kind).splits)
        raise wrong((said, "split"), f"is {dataset.split!r}; {dataset.kind} has {has}")
    segments = None if isinstance(dataset, ProtocolDataset) else dataset.segments
    if segments and segments.shortest > segments.length:
        raise wrong((said, "segments", "shortest"), f"is {segments.shortest}, longer than a window")
    if isinstance(dataset, TableDataset):
        name, folders = "root", dataset.root
    else:
        name, folders = ("videos", dataset.videos) if isinstance(dataset, ProtocolDataset) else ("path", dataset.path)
    for number, folder in enumerate(folders):
        if not is_remote(folder):
            continue
        key = (said, name)
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
    if config.run.ship_code and config.run.address == "local":
        raise wrong(
            ("run", "ship_code"),
            "is true, but run.address is 'local', where the code is already; give a cluster's address, or leave it out",
        )
    score = config.score
    for said, dataset in config.datasets.items():
        _check_dataset(said, dataset, wrong)
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
    if config.trains:
        if model.seed is not None:
            raise wrong(("model", "seed"), "is for weights that are not trained; what no file gives follows train.seed")
        return  # what no file gives is drawn
    if sampling.policy == "jitter":
        raise wrong(("sampling", "policy"), "is 'jitter', which is for training: use 'uniform'")
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
