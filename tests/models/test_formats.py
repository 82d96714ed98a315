"""The same CLIP, in every kind of file that people have, gives the same vectors."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from clip2video_pipe.models.clip2video import Clip2Video
from clip2video_pipe.models.errors import WeightsError
from clip2video_pipe.models.presets import PRESETS, Variant
from clip2video_pipe.models.weights import load_model

TINY, ZERO_SHOT = PRESETS["tiny"], Variant(temporal="mean", alignment="none")
SETTINGS = {
    "text_config": {"hidden_act": "quick_gelu", "hidden_size": 128, "num_attention_heads": 2},
    "vision_config": {"hidden_act": "quick_gelu", "hidden_size": 128, "num_attention_heads": 2},
}
State = dict[str, Tensor]


def load(path: object) -> Clip2Video:
    return load_model(TINY, ZERO_SHOT, clip=str(path), checkpoint=None, seed=None)


def hugging_face(state: State) -> State:
    """The tensors of a CLIP as `CLIPModel.save_pretrained` names them."""
    theirs: State = {"logit_scale": state["logit_scale"]}
    for tower, prefix, layers in (("text_model", "", 2), ("vision_model", "visual.", 3)):
        theirs[f"{tower}.embeddings.position_embedding.weight"] = state[f"{prefix}positional_embedding"]
        places = len(state[f"{prefix}positional_embedding"])
        theirs[f"{tower}.embeddings.position_ids"] = torch.arange(places)[None]
        for n in range(layers):
            ours, its = f"{prefix}transformer.resblocks.{n}.", f"{tower}.encoder.layers.{n}."
            for kind in ("weight", "bias"):
                q, k, v = state[f"{ours}attn.in_proj_{kind}"].chunk(3)
                theirs |= {f"{its}self_attn.{name}_proj.{kind}": part for name, part in (("q", q), ("k", k), ("v", v))}
                theirs[f"{its}self_attn.out_proj.{kind}"] = state[f"{ours}attn.out_proj.{kind}"]
                for name, mine in (("layer_norm1", "ln_1"), ("layer_norm2", "ln_2")):
                    theirs[f"{its}{name}.{kind}"] = state[f"{ours}{mine}.{kind}"]
                for name, mine in (("fc1", "c_fc"), ("fc2", "c_proj")):
                    theirs[f"{its}mlp.{name}.{kind}"] = state[f"{ours}mlp.{mine}.{kind}"]
    for kind in ("weight", "bias"):
        theirs[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
        theirs[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        theirs[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
    theirs["text_model.embeddings.token_embedding.weight"] = state["token_embedding.weight"]
    theirs["vision_model.embeddings.class_embedding"] = state["visual.class_embedding"]
    theirs["vision_model.embeddings.patch_embedding.weight"] = state["visual.conv1.weight"]
    theirs["visual_projection.weight"] = state["visual.proj"].T
    theirs["text_projection.weight"] = state["text_projection"].T
    return {name: value.clone().contiguous() for name, value in theirs.items()}


def state_dict(folder: Path, state: State) -> Path:
    torch.save(state, folder / "clip.pt")
    return folder / "clip.pt"


def old_state_dict(folder: Path, state: State) -> Path:
    torch.save(state, folder / "clip.bin", _use_new_zipfile_serialization=False)
    return folder / "clip.bin"


def with_openais_notes(folder: Path, state: State) -> Path:
    return state_dict(folder, state | {"input_resolution": torch.tensor(64), "vocab_size": torch.tensor(1024)})


def safetensors(folder: Path, state: State) -> Path:
    save_file(state, folder / "open_clip_model.safetensors")
    return folder / "open_clip_model.safetensors"


def openclip_training(folder: Path, state: State) -> Path:
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}}, "param_groups": [{"lr": 1e-4}]}
    named = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": named, "optimizer": optimizer}, folder / "epoch_3.pt")
    return folder / "epoch_3.pt"


def hugging_face_folder(folder: Path, state: State) -> Path:
    (folder / "config.json").write_text(json.dumps(SETTINGS))
    save_file(hugging_face(state), folder / "model.safetensors")
    return folder


def hugging_face_file(folder: Path, state: State) -> Path:
    return hugging_face_folder(folder, state) / "model.safetensors"


def hugging_face_bin(folder: Path, state: State) -> Path:
    (folder / "config.json").write_text(json.dumps(SETTINGS))
    torch.save(hugging_face(state), folder / "pytorch_model.bin")
    return folder


def hugging_face_in_parts(folder: Path, state: State) -> Path:
    theirs = hugging_face(state)
    places = {name: f"model-0000{1 + n % 2}-of-00002.safetensors" for n, name in enumerate(theirs)}
    for file in set(places.values()):
        save_file({name: theirs[name] for name in theirs if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


WRITERS: list[Callable[[Path, State], Path]] = [
    state_dict,
    old_state_dict,
    with_openais_notes,
    safetensors,
    openclip_training,
    hugging_face_folder,
    hugging_face_file,
    hugging_face_bin,
    hugging_face_in_parts,
]


@pytest.fixture(scope="module")
def model() -> Clip2Video:
    return load_model(TINY, ZERO_SHOT, clip=None, checkpoint=None, seed=3)


@pytest.fixture(scope="module")
def state(model: Clip2Video) -> State:
    return model.clip.state_dict()


def vectors(model: Clip2Video) -> tuple[Tensor, Tensor]:
    """Of two pictures, one a video, and of two captions."""
    pictures = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[1022, 5, 7, 1023], [1022, 6, 1023, 0]])
    with torch.no_grad():
        return model.embed_videos(pictures, [1, 1], 1)[0], model.embed_captions(ids, ids > 0)[0]


def agree(model: Clip2Video, other: Clip2Video, atol: float) -> None:
    for ours, theirs in zip(vectors(model), vectors(other), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


@pytest.mark.parametrize("write", WRITERS)
def test_every_kind_of_file_gives_the_same_vectors(
    write: Callable[[Path, State], Path], tmp_path: Path, model: Clip2Video, state: State
) -> None:
    agree(load(write(tmp_path, state)), model, atol=0)


# float16 has 11 bits: rounding the weights moves entries of unit vectors by some 1e-4.
@pytest.mark.parametrize("write", WRITERS)
def test_half_precision_gives_nearly_the_same_vectors(
    write: Callable[[Path, State], Path], tmp_path: Path, model: Clip2Video, state: State
) -> None:
    agree(load(write(tmp_path, {name: value.half() for name, value in state.items()})), model, atol=1e-3)


def test_openais_archive_gives_nearly_the_same_vectors(archive: Path, model: Clip2Video) -> None:
    agree(load(archive), model, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"text_config": {"hidden_act": "gelu"}}, "text_config.hidden_act is 'gelu', .* would give other vectors"),
        ({"vision_config": {"hidden_size": 128, "num_attention_heads": 4}}, "num_attention_heads is 4"),
    ],
)
def test_a_config_json_that_means_another_computation_is_refused(
    settings: object, said: str, tmp_path: Path, state: State
) -> None:
    path = hugging_face_folder(tmp_path, state)
    (path / "config.json").write_text(json.dumps(settings))
    for given in (path, path / "model.safetensors"):
        with pytest.raises(WeightsError, match=said):
            load(given)


def test_what_is_not_theirs_is_named_as_it_is_in_the_file(tmp_path: Path, state: State) -> None:
    theirs = hugging_face(state)
    key = theirs.pop("text_model.encoder.layers.1.self_attn.k_proj.weight")
    theirs["vision_model.head.weight"] = key
    save_file(theirs, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"in_proj_weight missing; .*layers\.1.*q_proj\.weight.*vision_model\.head"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"weight_map": {"a": "model-1.safetensors"}}, "names 'model-1.safetensors', which is not in the folder"),
        ({"weight_map": {"a": "../secret.safetensors"}}, "which is not in the folder"),
        ({}, "names no files"),
        ([], "holds no JSON object"),
        (None, "holds model.safetensors or pytorch_model.bin"),
    ],
)
def test_a_folder_without_its_files_is_refused(index: object, said: str, tmp_path: Path) -> None:
    if index is not None:
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=said):
        load(tmp_path)
