"""What training keeps: complete checkpoints to go on from, and models for others to use, each whole or not there."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from clip2video_pipe.manifests.store import Store

CHECKPOINT = "checkpoint.pt"
BEST = "model.safetensors"


def epoch_file(epoch: int) -> str:
    """The original's name for the model after an epoch, from 0."""
    return f"pytorch_model.bin.{epoch}"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write all that going on needs. Raises OSError."""
    _save(folder / CHECKPOINT, state)


def load_checkpoint(folder: Path, identity: str) -> dict[str, Any] | None:
    """The checkpoint of this very training; None where there is none, or that of another config, data or start."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state if state.get("identity") == identity else None


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
