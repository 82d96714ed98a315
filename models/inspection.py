"""What a weights file is: kind, precision, sizes, which preset fits, what to write in a config."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from clip2video_pipe.models import formats
from clip2video_pipe.models.containers import Contents, read_contents
from clip2video_pipe.models.fetching import sha256_of
from clip2video_pipe.models.presets import ClipSize, Variant
from clip2video_pipe.models.sources import PUBLISHED, find_clip, settings_beside


@dataclass(frozen=True)
class Description:
    """What a file or folder of weights holds.

    `kind` is `clip`, `clip2video` or `unknown`; `names` whose names the entries have. `precision` says how
    many parameters there are of each type. `sha256` is each tensor file's, by path. `size` is that of the
    CLIP inside, None where there is none. `model` are the settings of a config that these weights fit.
    """

    path: str
    kind: str
    names: str
    container: str
    bytes: int
    sha256: dict[str, str]
    parameters: int
    precision: dict[str, int]
    size: ClipSize | None = None
    preset: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def describe(said: str) -> Description:
    """Describe weights; `said` is a path or a published name. Raises WeightsError if they cannot be read."""
    path = find_clip(said)
    contents = read_contents(str(path))
    entries, notes = contents.tensors, []
    names, inside = _openai(entries)
    kind = {"CLIP2Video's": "clip2video", "unknown": "unknown"}.get(names, "clip")
    size = formats.size_of(inside)
    preset = formats.preset_of(size) if size else None
    variant = formats.variant_of(entries) if kind == "clip2video" else None
    digests = {str(file): sha256_of(file) for file in contents.files}
    for name, known in PUBLISHED.items():
        notes += [f"these are OpenAI's {name}, to the byte"] * (known.sha256 in digests.values())
    notes += formats.hugging_face_differences(settings_beside(path)) if names == "Hugging Face's" else []
    return Description(
        path=str(path),
        kind=kind,
        names=names,
        container=contents.container,
        bytes=sum(file.stat().st_size for file in contents.files),
        sha256=digests,
        **_counts(contents),
        size=size,
        preset=preset,
        model=_settings(said, kind, preset, variant, bool(inside)),
        notes=notes + _warnings(kind, size, preset, variant, entries),
    )


def _openai(entries: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Whose names entries have, and the CLIP among them under OpenAI's."""
    if formats.is_clip2video(entries):
        return "CLIP2Video's", formats.clip_part(entries)
    if formats.is_hugging_face(entries):
        return "Hugging Face's", formats.from_hugging_face(entries)
    if "visual.proj" in entries:
        return "OpenAI's", entries
    return "unknown", {}


def _counts(contents: Contents) -> dict[str, Any]:
    of_type: Counter[str] = Counter()
    for name, value in contents.tensors.items():
        if name.removeprefix("clip.") not in formats.NOTES | formats.POSITIONS:
            of_type[str(value.dtype).removeprefix("torch.")] += value.numel()
    return {"parameters": of_type.total(), "precision": dict(of_type.most_common())}


def _settings(said: str, kind: str, preset: str | None, variant: Variant | None, has_clip: bool) -> dict[str, Any]:
    if kind == "clip" and preset:
        return {"preset": preset, "clip": said, "temporal": "mean", "alignment": "none"}
    if variant is None or (has_clip and not preset):
        return {}
    settings: dict[str, Any] = {"preset": preset} if preset else {}
    settings |= {"checkpoint": said, "temporal": variant.temporal}
    settings |= {"difference": variant.difference} if variant.temporal == "tdb" else {}
    settings["alignment"] = variant.alignment
    return settings | ({"centers": variant.centers} if variant.alignment != "none" else {})


def _warnings(
    kind: str, size: ClipSize | None, preset: str | None, variant: Variant | None, entries: dict[str, Tensor]
) -> list[str]:
    found = []
    if kind == "unknown":
        found.append(f"no CLIP and no CLIP2Video; its entries are such as {', '.join(list(entries)[:3]) or 'none'}")
    if kind == "clip" and size is None:
        found.append("no CLIP of two transformers, or not a whole one")
    if size and not preset:
        found.append("no preset has this size")
    if kind == "clip":
        found.append("temporal: mean and alignment: none make it zero-shot CLIP; leave them out beside a checkpoint")
    if variant:
        found += ["CLIP's own weights are not in it: set model.clip and model.preset too"] * (size is None)
        found += ["alignment: tab has the same entries as tab-tdb: write the one it was trained with"] * (
            variant.alignment == "tab-tdb"
        )
    layers = {match[1] for name in entries if (match := re.match(r"transformerClip\.resblocks\.(\d+)\.", name))}
    if layers and len(layers) != 4:
        found.append(f"transformerClip has {len(layers)} layers, but CLIP2Video has 4")
    return found
