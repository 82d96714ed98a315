"""From files to a model ready to use: every entry accounted for, nothing in a file run (reference 16-18)."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from clip2video_pipe.models import formats
from clip2video_pipe.models.clip2video import Clip2Video
from clip2video_pipe.models.containers import read_contents
from clip2video_pipe.models.errors import WeightsError
from clip2video_pipe.models.presets import ClipSize, Variant
from clip2video_pipe.models.sources import settings_beside
from clip2video_pipe.models.untrained import seeded

Shapes = Mapping[str, tuple[int, ...]]


def load_model(
    size: ClipSize, variant: Variant, *, clip: str | None, checkpoint: str | None, seed: int | None
) -> Clip2Video:
    """The model, float32, in eval mode, on the CPU.

    - `clip`: path of a CLIP: OpenAI's archive (`ViT-B-32.pt`), a state dict or .safetensors with its names
      (OpenCLIP's have them), or a Hugging Face `CLIPModel`, a folder or a file.
    - `checkpoint`: path of a trained CLIP2Video, a state dict (`pytorch_model.bin.2`) or .safetensors. Its
      `clip.` entries go before those of `clip`, which may be None if they are complete. Modules that
      `variant` does not use are passed over.
    - `seed`: in place of both, untrained weights: the same for the same seed, whatever the variant.

    Files are mapped where possible: do not write into a file while it is in use. Raises WeightsError for a
    file that is absent or damaged, for entries that are missing, unknown or of the wrong shape, and where a
    part would be random that nobody asked to be.
    """
    if seed is not None and (clip is not None or checkpoint is not None):
        raise WeightsError("a seed makes untrained weights, but files are given too: leave out model.seed or the files")
    with _without_values():  # they come from the files
        model = Clip2Video(size, variant)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if seed is not None:
        state = {name: seeded(name, shape, size, seed) for name, shape in wanted.items()}
    else:
        _check_given(variant, clip, checkpoint)
        state = read_state(size, variant, wanted, clip, checkpoint)
    model.load_state_dict({name: state[name].float() for name in wanted}, assign=True)
    return model.eval()


@contextmanager
def _without_values() -> Iterator[None]:
    """Modules made inside have shapes, names and no values."""
    with torch.device("meta"), _NoInit():
        yield


class _NoInit(TorchFunctionMode):
    """Leaves out `torch.nn.init`, which on the meta device does nothing, but imports torch's compiler for it: 0.9 s."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _check_given(variant: Variant, clip: str | None, checkpoint: str | None) -> None:
    if clip is None and checkpoint is None:
        raise WeightsError(
            "no weights are given: set model.clip and model.checkpoint, or model.seed for untrained ones"
        )
    if checkpoint is None and not variant.zero_shot:
        raise WeightsError(
            f"temporal {variant.temporal!r}, alignment {variant.alignment!r}: CLIP has no such modules, they "
            "would be random; set model.checkpoint, or temporal 'mean' and alignment 'none' (zero-shot CLIP)"
        )


def read_state(
    size: ClipSize,
    variant: Variant,
    wanted: Shapes,
    clip: str | None,
    checkpoint: str | None,
    *,
    whole: bool = True,
) -> dict[str, Tensor]:
    """The entries that files hold, those of `checkpoint` before those of `clip`. Raises WeightsError.

    `whole`: whether all that is wanted has to be there; training draws what is not.
    """
    state: dict[str, Tensor] = {}
    if clip is not None:
        state |= _clip(clip, size, {name: shape for name, shape in wanted.items() if name.startswith("clip.")})
    if checkpoint is not None:
        entries = read_contents(checkpoint).tensors
        if not formats.is_clip2video(entries) and _is_clip(entries):
            raise WeightsError(
                f"{checkpoint}: is CLIP alone, not a trained CLIP2Video: set model.clip to it, not model.checkpoint"
            )
        missing = [name for name in wanted if whole and name not in entries and name not in state]
        faults = _faults(entries, wanted, missing, _names_of_all_variants(size))
        if faults:
            raise WeightsError(f"{checkpoint}: {faults}; {_checkpoint_way_out(entries, missing, size, variant, clip)}")
        state |= entries
    return state


def _clip(path: str, size: ClipSize, wanted: Shapes) -> dict[str, Tensor]:
    """The entries of a CLIP file or folder, under the names they have in the model. Raises WeightsError."""
    entries = read_contents(path).tensors
    if formats.is_clip2video(entries):
        raise WeightsError(f"{path}: is a trained CLIP2Video, not CLIP: set model.checkpoint to it, not model.clip")
    if formats.is_hugging_face(entries):
        if differences := formats.hugging_face_differences(settings_beside(Path(path))):
            raise WeightsError(f"{path}: its config.json: {differences[0]}; these weights would give other vectors")
        entries = formats.from_hugging_face(entries)
    state = {f"clip.{name}": value for name, value in entries.items()}
    faults = _faults(state, wanted, [name for name in wanted if name not in state], wanted)
    if faults:
        way_out = _size_way_out(entries, size) or "is the file a whole CLIP, made for no other program?"
        raise WeightsError(f"{path}: {faults}; {way_out}")
    return state


def _is_clip(entries: Mapping[str, Tensor]) -> bool:
    return "visual.proj" in entries or formats.is_hugging_face(entries)


def _faults(entries: Mapping[str, Tensor], wanted: Shapes, missing: list[str], known: Iterable[str]) -> str:
    """What is wrong with entries, in words: of another shape or kind, missing, not among `known`. Empty: nothing."""
    notes = {f"clip.{name}" for name in formats.NOTES}
    unknown = sorted(entries.keys() - set(known) - notes)
    there = {name: entries[name] for name in wanted if name in entries}
    misshapen = [
        f"{name} is {list(value.shape)} where {list(wanted[name])} is asked for"
        for name, value in there.items()
        if tuple(value.shape) != wanted[name]
    ]
    strange = [
        f"{name} is {_kind(value)}, not plain real numbers" for name, value in there.items() if not _plain(value)
    ]
    found = [_some(misshapen), _some(strange), f"{_some(missing)} missing" if missing else ""]
    found.append(f"{_some(unknown)} unknown" if unknown else "")
    return "; ".join(part for part in found if part)


def _plain(value: Tensor) -> bool:
    """Whether a tensor can become float32 as it is; one of integers is quantised and lacks its scales here."""
    return value.is_floating_point() and value.layout == torch.strided and value.device.type == "cpu"


def _kind(value: Tensor) -> str:
    parts = (value.dtype, value.layout, value.device.type)
    return " ".join(str(part).removeprefix("torch.") for part in parts)


def _size_way_out(entries: Mapping[str, Tensor], size: ClipSize) -> str | None:
    """What to change where the CLIP in a file, under OpenAI's names, is of another size; None if it is not."""
    found = formats.size_of(entries)
    if found is None and any(name.startswith("visual.layer1.") for name in entries):
        return "the file's image tower is a ResNet: use a CLIP with an image transformer"
    if found is None or found == size:
        return None
    if preset := formats.preset_of(found):
        return f"the file's CLIP is {preset}: set model.preset: {preset}"
    return (
        f"the file's CLIP has {found.image_size} pixels, patches of {found.patch_size}, widths {found.vision_width} "
        f"and {found.text_width}, {found.vision_layers} and {found.text_layers} layers: no preset has its size"
    )


def _checkpoint_way_out(
    entries: Mapping[str, Tensor], missing: list[str], size: ClipSize, variant: Variant, clip: str | None
) -> str:
    inside = formats.clip_part(entries)
    if way_out := _size_way_out(inside, size):
        return way_out
    if missing and all(name.startswith("clip.") for name in missing):
        return "set model.clip to a whole CLIP" if clip is None else "is the file whole?"
    if formats.is_clip2video(entries):
        held = formats.variant_of(entries)
        settings = [f"model.{name}: {value}" for name, value in _differences(held, variant)]
        if settings:
            return f"set {', '.join(settings)}, as the file has it"
    positions = entries.get("frame_position_embeddings.weight")
    if positions is not None and positions.ndim == 2 and positions.shape[1] != size.embed_dim:
        return (
            f"the file's vectors are {positions.shape[1]} long, those of the preset {size.embed_dim}: set model.preset"
        )
    return "is it a whole CLIP2Video, made for no other program?"


def _differences(held: Variant, asked: Variant) -> list[tuple[str, object]]:
    """The settings that have to change for the file's modules to be enough."""
    found: list[tuple[str, object]] = []
    if held.temporal != asked.temporal and asked.temporal != "mean":
        found.append(("temporal", held.temporal))
    if asked.temporal == held.temporal == "tdb" and held.difference != asked.difference != "subtract":
        found.append(("difference", held.difference))
    if asked.alignment != "none":
        lacks_tdb = asked.alignment == "tab-tdb" and held.alignment == "tab"
        if held.alignment == "none" or lacks_tdb:
            found.append(("alignment", held.alignment))
        elif held.centers != asked.centers:
            found.append(("centers", held.centers))
    return found


def _names_of_all_variants(size: ClipSize) -> set[str]:
    with _without_values():
        return {name for d in ("attention", "mlp") for name in Clip2Video(size, Variant(difference=d)).state_dict()}


def _some(things: list[str]) -> str:
    return ", ".join(things[:5]) + (f" and {len(things) - 5} more" if len(things) > 5 else "")
