"""What the names and shapes of entries tell: whose they are, how large the model is, which variant it can be."""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clip2video_pipe.models.presets import PRESETS, ClipSize, Variant

# OpenAI's notes beside the weights.
NOTES = frozenset({"input_resolution", "context_length", "vocab_size"})

# Hugging Face's names for what lies outside of the layers.
HUGGING_FACE = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # as they spell it
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
}
TRANSPOSED = frozenset({"text_projection.weight", "visual_projection.weight"})  # theirs are linear layers
POSITIONS = frozenset({"text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"})  # 0, 1, 2, …
LAYER = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.([\w.]+)\.(weight|bias)")
LAYERS = {"text": "transformer.resblocks", "vision": "visual.transformer.resblocks"}
PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def is_hugging_face(entries: Mapping[str, Tensor]) -> bool:
    """Whether names are those of Hugging Face's `CLIPModel`."""
    return any(name.startswith(("text_model.", "vision_model.")) for name in entries)


def from_hugging_face(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries of a `CLIPModel` under OpenAI's names: q, k, v joined, projections transposed, positions left out.

    What has no place keeps its name, so that it is found to be unknown.
    """
    found: dict[str, Tensor] = {}
    apart: dict[str, dict[str, Tensor]] = {}  # q, k and v of in_proj
    for name, value in entries.items():
        layer = LAYER.fullmatch(name)
        if layer and layer[3] in QKV:
            apart.setdefault(f"{LAYERS[layer[1]]}.{layer[2]}.attn.in_proj_{layer[4]}", {})[name] = value
        elif layer and layer[3] in PARTS:
            found[f"{LAYERS[layer[1]]}.{layer[2]}.{PARTS[layer[3]]}.{layer[4]}"] = value
        elif name in TRANSPOSED and value.ndim == 2:
            found[HUGGING_FACE[name]] = value.T.contiguous()
        elif name not in POSITIONS:
            found[HUGGING_FACE.get(name, name)] = value
    for joined, parts in apart.items():
        in_order = sorted(parts, key=lambda name: next(n for n, part in enumerate(QKV) if part in name))
        shapes = {parts[name].shape for name in in_order}
        if len(in_order) == len(QKV) and len(shapes) == 1 and shapes.pop():
            found[joined] = torch.cat([parts[name] for name in in_order])
        else:
            found |= parts
    return found


def hugging_face_differences(settings: Mapping[str, Any]) -> list[str]:
    """What a `config.json` says that this program's CLIP does not do; the tensors would not show it."""
    found = []
    for tower in ("text_config", "vision_config"):
        said = settings.get(tower)
        if not isinstance(said, dict):
            continue
        activation, width, heads = (said.get(key) for key in ("hidden_act", "hidden_size", "num_attention_heads"))
        if activation not in (None, "quick_gelu"):
            found.append(
                f"{tower}.hidden_act is {activation!r}, but OpenAI's CLIP, and this program, have 'quick_gelu'"
            )
        if isinstance(width, int) and isinstance(heads, int) and heads != max(1, width // 64):
            found.append(f"{tower}.num_attention_heads is {heads}, but this program has one per 64 channels")
    return found


def size_of(entries: Mapping[str, Tensor]) -> ClipSize | None:
    """The size of a CLIP with OpenAI's names, from its shapes; None if they are not those of two transformers."""
    shapes = {name: tuple(value.shape) for name, value in entries.items()}
    try:
        width, _, patch, _ = shapes["visual.conv1.weight"]
        places, _ = shapes["visual.positional_embedding"]
        _, embed_dim = shapes["visual.proj"]
        context_length, text_width = shapes["positional_embedding"]
        vocab_size, _ = shapes["token_embedding.weight"]
    except (KeyError, ValueError):
        return None
    return ClipSize(
        image_size=patch * math.isqrt(max(0, places - 1)),
        patch_size=patch,
        vision_width=width,
        vision_layers=_layers(entries, "visual.transformer.resblocks."),
        embed_dim=embed_dim,
        context_length=context_length,
        vocab_size=vocab_size,
        text_width=text_width,
        text_heads=max(1, text_width // 64),
        text_layers=_layers(entries, "transformer.resblocks."),
    )


def _layers(entries: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).partition(".")[0] for name in entries if name.startswith(prefix)})


def preset_of(size: ClipSize) -> str | None:
    """The preset of this size; None if there is none."""
    return next((name for name, preset in PRESETS.items() if preset == size), None)


def clip_part(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The CLIP inside of a trained CLIP2Video, under OpenAI's names."""
    return {name.removeprefix("clip."): value for name, value in entries.items() if name.startswith("clip.")}


def is_clip2video(entries: Mapping[str, Tensor]) -> bool:
    """Whether names are those of a trained CLIP2Video (reference 17)."""
    return any(name.startswith(("clip.", "transformerClip.", "frame_position_embeddings.")) for name in entries)


def variant_of(entries: Mapping[str, Tensor]) -> Variant:
    """The most that a trained CLIP2Video with these entries can do.

    `tab` and `tab-tdb` have the same entries, so `tab` is given only where there is no TDB to share.
    """
    held = {name.partition(".")[0] for name in entries}
    temporal = "tdb" if {"transformerClip", "type_position_embeddings"} <= held else "transformer"
    if "transformerClip" not in held:
        temporal = "mean"
    difference = "subtract"
    if "trans_layernorm" in held:
        for name, way in (("frame2t_projection", "mlp"), ("frame2t_attention", "attention")):
            difference = way if name in held else difference
    alignment, centers = "none", 5
    if {"actionClip", "weight_center", "emb_center"} <= held and entries["weight_center"].ndim:
        alignment = "tab-tdb" if temporal == "tdb" else "tab"
        centers = max(1, len(entries["weight_center"]))
    return Variant(temporal=temporal, difference=difference, alignment=alignment, centers=centers)  # type: ignore[arg-type]
