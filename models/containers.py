"""From bytes to tensors by name: zip and older state dicts, TorchScript archives, safetensors; runs nothing in them."""

import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from clip2video_pipe.models import torchscript
from clip2video_pipe.models.errors import WeightsError
from clip2video_pipe.models.sources import tensor_files


@dataclass(frozen=True)
class Contents:
    """What was read: the tensors by their names in the file, in its precision, and what kind of file it is."""

    tensors: dict[str, Tensor]
    container: str
    files: list[Path]


def read_tensors(path: str) -> dict[str, Tensor]:
    """The tensors of a weights file or folder by name, in its precision. Raises WeightsError as `read_contents`."""
    return read_contents(path).tensors


def read_contents(path: str) -> Contents:
    """Read a weights file, or a Hugging Face folder of them.

    Taken out of their wrapping: the `state_dict` of a training checkpoint, and names that all start with
    `module.`. Tensors are mapped where the format allows: do not write into a file while they are in use.
    Raises WeightsError if there is no such file, or it is damaged, or holds anything else.
    """
    files = tensor_files(Path(path))
    tensors: dict[str, Tensor] = {}
    for file in files:
        found, container = _read_file(file)
        tensors |= found
    if Path(path).is_dir():
        container = f"folder of {container}" if len(files) == 1 else f"folder of {len(files)} files, {container}"
    return Contents(tensors, container, files)


def _read_file(file: Path) -> tuple[dict[str, Tensor], str]:
    if not file.is_file():
        raise WeightsError(f"{file}: no such file")
    try:
        loaded: Any
        if torchscript.is_archive(file):
            loaded, container = torchscript.read_archive(file), "TorchScript archive"
        elif zipfile.is_zipfile(file):
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            container = "state dict"
        elif _is_safetensors(file):
            loaded, container = safetensors.torch.load_file(file), "safetensors"
        else:  # torch before 1.6 wrote no zip; it cannot be mapped
            # By its path, torch would go by the name's ending; of newer pickles, which no state dict is, it warns.
            with file.open("rb") as opened, warnings.catch_warnings(action="ignore"):
                loaded = torch.load(opened, map_location="cpu", weights_only=True)
            container = "state dict from before torch 1.6"
    except Exception as error:  # pickle, zip, safetensors and torch have no common one
        raise WeightsError(f"{file}: cannot be read as weights ({_reason(error)})") from error
    return _state_dict(loaded, file), container


def _is_safetensors(file: Path) -> bool:
    """Whether a file starts with the length of a JSON header that fits in it, and `{`."""
    with file.open("rb") as opened:
        head = opened.read(9)
        return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= _size(opened)


def _size(opened: BinaryIO) -> int:
    return opened.seek(0, 2)


def _reason(error: Exception) -> str:
    """Why a file could not be read, in one line."""
    text = str(error).strip()
    # torch's own words go on about how to run the file's code all the same.
    if asked := re.search(r"(?:GLOBAL|it asks for) ([\w.]+)", text):
        return f"it asks for {asked[1]}, which weights do not need, and it was not run; save a state dict alone"
    if "Weights only load failed" in text:
        return "it is no state dict, or damaged; is the download complete?"
    first = text.splitlines()[0] if text else type(error).__name__
    return f"{first}; is the download complete?"


def _state_dict(loaded: Any, file: Path) -> dict[str, Tensor]:
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]  # of a training checkpoint, beside epoch and optimizer
    if not isinstance(loaded, dict):
        raise WeightsError(f"{file}: holds something other than a state dict of tensors: {type(loaded).__name__}")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            what = f"{name!r} is {type(value).__name__}"
            raise WeightsError(f"{file}: holds something other than a state dict of tensors: {what}")
    if loaded and all(name.startswith("module.") for name in loaded):
        return {name.removeprefix("module."): value for name, value in loaded.items()}
    return loaded
