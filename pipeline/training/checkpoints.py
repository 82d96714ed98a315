"""What training keeps: complete checkpoints to go on from, and models for others to use, each whole or not there."""

import json
import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

CHECKPOINT = "checkpoint.pt"
BEST = "model.safetensors"


def epoch_file(epoch: int) -> str:
    """The original's name for the model after an epoch, from 0."""
    return f"pytorch_model.bin.{epoch}"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write all that going on needs."""
    _replace(folder / CHECKPOINT, lambda path: torch.save(state, path))


def load_checkpoint(folder: Path, identity: str) -> dict[str, Any] | None:
    """The checkpoint of this very training; None where there is none, or that of another config, data or start."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state if state.get("identity") == identity else None


def save_model(path: Path, weights: dict[str, Tensor], said: dict[str, str] | None = None) -> None:
    """Write weights under the original's names, as a state dict or, by the name's ending, as safetensors."""
    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    if path.suffix == ".safetensors":
        _replace(path, lambda temporary: safetensors.torch.save_file(plain, temporary, said))
    else:
        _replace(path, lambda temporary: torch.save(plain, temporary))


def save_json(path: Path, value: Any) -> None:
    _replace(path, lambda temporary: temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n"))


def _replace(path: Path, write: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
