"""What training keeps: complete checkpoints to go on from, and models for others to use, each whole or not there."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.errors import RequestError

CHECKPOINT = "checkpoint.pt"
BEGUN = "training.json"
BEST = "model.safetensors"


def epoch_file(epoch: int) -> str:
    """The original's name for the model after an epoch, from 0."""
    return f"pytorch_model.bin.{epoch}"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write all that going on needs. Raises OSError."""
    _save(folder / CHECKPOINT, state)


def begin(folder: Path, identity: str) -> None:
    """Make `folder` that of one training, by config, data and start. Raises RequestError where it has another's."""
    known = begun(folder)
    if known == identity:
        return
    if (folder / CHECKPOINT).exists():
        raise _of_another(folder)
    folder.mkdir(parents=True, exist_ok=True)
    Store(str(folder)).write_json({"identity": identity}, BEGUN)


def begun(folder: Path) -> str | None:
    """The identity of the training that `folder` is of; None where there is none. Raises RequestError, OSError."""
    path = folder / BEGUN
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["identity"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise RequestError(
            f"train.out: {str(path)!r} is damaged, so that nobody knows which training this folder is of; remove that "
            f"file and {CHECKPOINT} to begin anew, or name another folder (train.out, or name)"
        ) from error


def load_checkpoint(folder: Path, identity: str) -> dict[str, Any] | None:
    """The checkpoint of a folder; None where there is none. Raises RequestError for that of another training."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if state["identity"] != identity:
        raise _of_another(folder)
    return state


def _of_another(folder: Path) -> RequestError:
    return RequestError(
        f"train.out: {str(folder)!r} has a training of other settings, data, shards or starting weights; "
        "name another folder (train.out, or name), or remove it"
    )


def save_model(path: Path, weights: dict[str, Tensor], said: dict[str, str] | None = None) -> None:
    """Write weights under the original's names, as a state dict or, by the name's ending, as safetensors."""
    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    if path.suffix == ".safetensors":
        Store(str(path.parent)).write(safetensors.torch.save(plain, said), path.name)
    else:
        _save(path, plain)


def _save(path: Path, state: dict[str, Any]) -> None:
    with Store(str(path.parent)).writing(path.name) as sink:
        torch.save(state, sink)
