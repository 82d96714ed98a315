"""Where weights lie: published names, the cache folder, files and folders. Opens no weights and imports no torch."""

import json
import os
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from clip2video_pipe.models.errors import WeightsError

CACHE_VARIABLE = "CLIP2VIDEO_PIPE_CACHE"
OPENAI = "https://openaipublic.azureedge.net/clip/models"
# What a Hugging Face folder keeps its tensors in, best first; an index names the files of a model in several.
IN_FOLDER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


# Trained models that come with the package, by the name that `model.checkpoint` may say.
SHIPPED = {"demo": "demo.safetensors"}


@dataclass(frozen=True)
class Published:
    """A CLIP that OpenAI published: the preset of its size, the file's name, and the sha256 of its bytes."""

    preset: str
    file: str
    sha256: str

    @property
    def url(self) -> str:
        return f"{OPENAI}/{self.sha256}/{self.file}"


PUBLISHED = {
    "ViT-B/32": Published(
        "vit-b-32", "ViT-B-32.pt", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
    ),
    "ViT-B/16": Published(
        "vit-b-16", "ViT-B-16.pt", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
    ),
    "ViT-L/14": Published(
        "vit-l-14", "ViT-L-14.pt", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"
    ),
}


def published(name: str) -> Published:
    """What `name` is the name of. Raises WeightsError if it is nobody's."""
    if name not in PUBLISHED:
        near = get_close_matches(name.lower(), [known.lower() for known in PUBLISHED], 1)
        meant = [known for known in PUBLISHED if known.lower() in near]
        hint = f"did you mean {meant[0]!r}?" if meant else f"known: {', '.join(PUBLISHED)}"
        raise WeightsError(f"{name!r} is not the name of published weights; {hint}")
    return PUBLISHED[name]


def find_checkpoint(said: str) -> Path:
    """Where a trained model lies: that of a path, or one that comes with the package, by its name."""
    if said in SHIPPED:
        return Path(str(resources.files("clip2video_pipe.models").joinpath(SHIPPED[said])))
    return Path(said)


def cache_folder() -> Path:
    """Where fetched weights are kept: `$CLIP2VIDEO_PIPE_CACHE`, or this program's part of the user's cache folder."""
    if said := os.environ.get(CACHE_VARIABLE):
        return Path(said).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("clip2video-pipe")


def cached_path(name: str) -> Path:
    """Where the published weights `name` are kept once fetched. Raises WeightsError for an unknown name."""
    return cache_folder() / "clip" / published(name).file


def find_clip(said: str) -> Path:
    """The file or folder that `model.clip` means: a published name is its cached file, all else is a path.

    Raises WeightsError if it is not there.
    """
    if said in PUBLISHED:
        path = cached_path(said)
        if not path.is_file():
            raise WeightsError(f"{said!r}: is not in {path.parent}; get it with: clip2video-pipe weights fetch {said}")
        return path
    path = Path(said)
    if not path.exists():
        near = get_close_matches(said.lower().replace("-", "/"), [name.lower().replace("-", "/") for name in PUBLISHED])
        meant = [name for name in PUBLISHED if name.lower().replace("-", "/") in near]
        start = "" if path.is_absolute() else f" (relative paths start at {Path.cwd()})"
        hint = f"; did you mean {meant[0]!r}?" if meant else ""
        raise WeightsError(f"{said!r}: no such file or folder{start}{hint}")
    return path


def tensor_files(path: Path) -> list[Path]:
    """The files that hold the tensors: `path` itself, or those of a Hugging Face folder, in order.

    Raises WeightsError if a folder holds none, or lacks one that its index names.
    """
    if not path.is_dir():
        return [path]
    name = next((name for name in IN_FOLDER if (path / name).is_file()), None)
    if name is None:
        raise WeightsError(f"{str(path)!r}: a folder of weights holds model.safetensors or pytorch_model.bin, not this")
    if not name.endswith(".index.json"):
        return [path / name]
    places = read_json(path / name).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise WeightsError(f"{str(path / name)!r}: names no files (weight_map)")
    files = sorted(set(places.values()))
    for file in files:
        if Path(file).name != file or not (path / file).is_file():
            raise WeightsError(f"{str(path / name)!r}: names {file!r}, which is not in the folder")
    return [path / file for file in files]


def settings_beside(path: Path) -> dict[str, Any]:
    """The `config.json` in a folder of weights, or beside a file of them; empty where there is none.

    Raises WeightsError if it is damaged.
    """
    config = (path if path.is_dir() else path.parent) / "config.json"
    return read_json(config) if config.is_file() else {}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises WeightsError if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{str(path)!r}: cannot be read ({str(error).splitlines()[0]})") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{str(path)!r}: holds no JSON object")
    return found
