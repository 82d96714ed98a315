"""What training keeps: complete checkpoints to go on from, and models for others to use, each whole or not there."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from torch import Tensor

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.errors import RequestError

CHECKPOINT = "checkpoint.pt"
BEGUN, VIDEOS = "training.json", "training.parquet"
COLUMNS = pa.schema({"item": pa.string(), "group": pa.int64()})
BEST = "model.safetensors"


def epoch_file(epoch: int) -> str:
    """The original's name for the model after an epoch, from 0."""
    return f"pytorch_model.bin.{epoch}"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write all that going on needs. Raises OSError."""
    _save(folder / CHECKPOINT, state)


@dataclass(frozen=True)
class Beginning:
    """What a training goes on with, although the store or the dataset may be another by then."""

    identity: str  # of config and start
    window: int  # groups that are read at a time
    groups: dict[str, int]  # of each video that is learnt from, by content: those that lay in one shard
    pairs: str  # digest of these videos and their captions
    measured: str  # the same of what is validated on
    held_out: list[str]  # contents, where a share of the training videos is


def begin(folder: Path, new: Beginning) -> None:
    """Make `folder` that of one training."""
    store = Store(str(folder))
    rows = [*new.groups.items(), *((item, None) for item in new.held_out)]
    with store.writing(VIDEOS) as sink:
        pq.write_table(pa.table({"item": [row[0] for row in rows], "group": [row[1] for row in rows]}, COLUMNS), sink)
    said = {"identity": new.identity, "window": new.window, "pairs": new.pairs, "measured": new.measured}
    store.write_json(said, BEGUN)


def begun(folder: Path) -> str | None:
    """The identity of the training that `folder` is of; None where there is none. Raises RequestError, OSError."""
    said = _said(folder)
    return str(said["identity"]) if said else None


def beginning(folder: Path, identity: str) -> Beginning | None:
    """That of the training that `folder` is of; None where there is none.

    Raises RequestError where there is another one's checkpoint, or where it is damaged.
    """
    said = _said(folder)
    if said is None or said["identity"] != identity:
        if (folder / CHECKPOINT).exists():
            raise _of_another(folder)
        return None
    try:
        rows = pq.read_table(folder / VIDEOS).to_pylist()
        groups = {row["item"]: row["group"] for row in rows if row["group"] is not None}
        held_out = [row["item"] for row in rows if row["group"] is None]
        return Beginning(said["identity"], said["window"], groups, said["pairs"], said["measured"], held_out)
    except FileNotFoundError as error:
        raise _damaged(folder / VIDEOS) from error
    except (ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise _damaged(folder / BEGUN) from error


def _said(folder: Path) -> dict[str, Any] | None:
    """What `training.json` says, its identity at least."""
    path = folder / BEGUN
    if not path.exists():
        return None
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        said["identity"]  # or it is none of ours
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(path) from error
    return said


def _damaged(path: Path) -> RequestError:
    return RequestError(
        f"train.out: {str(path)!r} is gone or damaged, so that nobody knows which training this folder is of; remove "
        f"{BEGUN} and {CHECKPOINT} to begin anew, or name another folder (train.out, or name)"
    )


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
        f"train.out: {str(folder)!r} has a training of other settings or starting weights; "
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
