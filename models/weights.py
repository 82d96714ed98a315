"""From files to a model ready to use: every entry accounted for, nothing in a file run (reference 16-18)."""

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip2video_pipe.models import torchscript
from clip2video_pipe.models.clip2video import Clip2Video
from clip2video_pipe.models.errors import WeightsError
from clip2video_pipe.models.presets import PRESETS, ClipSize, Variant
from clip2video_pipe.models.untrained import seeded

# OpenAI's notes beside the weights.
NOT_WEIGHTS = {"clip.input_resolution", "clip.context_length", "clip.vocab_size"}


def load_model(
    size: ClipSize, variant: Variant, *, clip: str | None, checkpoint: str | None, seed: int | None
) -> Clip2Video:
    """The model, float32, in eval mode, on the CPU.

    - `clip`: path of OpenAI's archive (`ViT-B-32.pt`) or of a plain state dict with the same names.
    - `checkpoint`: path of a trained CLIP2Video, a plain state dict (`pytorch_model.bin.2`). Its `clip.`
      entries go before those of `clip`, which may be None if they are complete. Modules that `variant` does
      not use are passed over.
    - `seed`: in place of both, untrained weights: the same for the same seed, whatever the variant.

    Files are mapped where possible: do not write into a file while it is in use. Raises WeightsError for a
    file that is absent or damaged, for entries that are missing, unknown or of the wrong shape, and where a
    part would be random that nobody asked to be.
    """
    if seed is not None and (clip is not None or checkpoint is not None):
        raise WeightsError("a seed makes untrained weights, but files are given too: leave out model.seed or the files")
    with torch.device("meta"):  # shapes without values: they come from the files
        model = Clip2Video(size, variant)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if seed is not None:
        state = {name: seeded(name, shape, size, seed) for name, shape in wanted.items()}
    else:
        state = _from_files(size, variant, wanted, clip, checkpoint)
    model.load_state_dict({name: state[name].float() for name in wanted}, assign=True)
    return model.eval()


def _from_files(
    size: ClipSize,
    variant: Variant,
    wanted: Mapping[str, tuple[int, ...]],
    clip: str | None,
    checkpoint: str | None,
) -> dict[str, Tensor]:
    if clip is None and checkpoint is None:
        raise WeightsError(
            "no weights are given: set model.clip and model.checkpoint, or model.seed for untrained ones"
        )
    if checkpoint is None and not variant.zero_shot:
        raise WeightsError(
            f"temporal {variant.temporal!r}, alignment {variant.alignment!r}: CLIP has no such modules, they "
            "would be random; set model.checkpoint, or temporal 'mean' and alignment 'none' (zero-shot CLIP)"
        )
    state: dict[str, Tensor] = {}
    if clip is not None:
        entries = {f"clip.{name}": value for name, value in read_tensors(clip).items()}
        known = {name: shape for name, shape in wanted.items() if name.startswith("clip.")}
        _check_entries(clip, entries, known, known, size)
        state |= entries
    if checkpoint is not None:
        entries = read_tensors(checkpoint)
        _check_entries(checkpoint, entries, wanted, _names_of_all_variants(size), size)
        state |= entries
    missing = [name for name in wanted if name not in state]
    if missing:
        files = " and ".join(path for path in (clip, checkpoint) if path is not None)
        if all(name.startswith("clip.") for name in missing):
            way_out = "set model.clip to a whole CLIP" if clip is None else "is the file a whole CLIP?"
        else:
            way_out = "set model.temporal, model.difference and model.alignment as the checkpoint was trained"
        raise WeightsError(f"{files}: {_some(missing)} missing; {way_out}")
    return state


def read_tensors(path: str) -> dict[str, Tensor]:
    """The tensors of a state dict or a TorchScript archive by name, in the file's precision; runs nothing.

    Raises WeightsError if there is no such file, or it is damaged, or holds anything else.
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        if torchscript.is_archive(file):
            return torchscript.read_archive(file)
        mapped = zipfile.is_zipfile(file)  # the format before torch 1.6 was no zip, and cannot be mapped
        loaded: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # pickle, zip and torch have no common one
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path}: cannot be read as weights ({reason}); is the download complete?") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError(f"{path}: holds something other than a state dict of tensors")
    return loaded


def _check_entries(
    path: str,
    entries: Mapping[str, Tensor],
    wanted: Mapping[str, tuple[int, ...]],
    known: Iterable[str],
    size: ClipSize,
) -> None:
    """Raises WeightsError if a name is not among `known`, or a shape not as in `wanted`."""
    unknown = sorted(entries.keys() - set(known) - NOT_WEIGHTS)
    misshapen = [name for name in wanted if name in entries and tuple(entries[name].shape) != wanted[name]]
    if not unknown and not misshapen:
        return
    if "clip.visual.proj" not in entries and "visual.proj" in entries:
        raise WeightsError(
            f"{path}: is CLIP alone, not a trained CLIP2Video: set model.clip to it, not model.checkpoint"
        )
    if any(name.startswith("clip.clip.") for name in entries):
        raise WeightsError(f"{path}: is a trained CLIP2Video, not CLIP: set model.checkpoint to it, not model.clip")
    way_out = "is it made for another program?"
    if other := _preset_of(entries, size):
        way_out = f"the file's CLIP is {other}: set model.preset: {other}"
    elif misshapen and {"weight_center", "emb_center"}.issuperset(misshapen) and not unknown:
        way_out = f"set model.centers: {len(entries[misshapen[0]])}"
    elif misshapen:
        way_out = "set model.preset to the size of the file's CLIP"
    shapes = [f"{name} is {list(entries[name].shape)} where {list(wanted[name])} is asked for" for name in misshapen]
    found = [_some(shapes)] * bool(shapes) + [f"{_some(unknown)} unknown"] * bool(unknown)
    raise WeightsError(f"{path}: {'; '.join(found)}; {way_out}")


def _preset_of(entries: Mapping[str, Tensor], size: ClipSize) -> str | None:
    """The preset, other than `size`, that has the shapes of these entries' image tower."""
    for name, preset in PRESETS.items():
        grid = preset.image_size // preset.patch_size
        signs = {
            "clip.visual.conv1.weight": (preset.vision_width, 3, preset.patch_size, preset.patch_size),
            "clip.visual.positional_embedding": (grid * grid + 1, preset.vision_width),
        }
        if preset != size and all(n in entries and tuple(entries[n].shape) == shape for n, shape in signs.items()):
            return name
    return None


def _names_of_all_variants(size: ClipSize) -> set[str]:
    with torch.device("meta"):
        return {name for d in ("attention", "mlp") for name in Clip2Video(size, Variant(difference=d)).state_dict()}


def _some(things: list[str]) -> str:
    return ", ".join(things[:5]) + (f" and {len(things) - 5} more" if len(things) > 5 else "")
