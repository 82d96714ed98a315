"""A model is loaded whole and right, or there is one line that says what to change."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from clip2video_pipe.models.clip2video import Clip2Video
from clip2video_pipe.models.errors import WeightsError
from clip2video_pipe.models.presets import PRESETS, ClipSize, Variant
from clip2video_pipe.models.weights import load_model

TINY, FULL, ZERO_SHOT = PRESETS["tiny"], Variant(), Variant(temporal="mean", alignment="none")
State = dict[str, Tensor]


def untrained(seed: int, variant: Variant = FULL, size: ClipSize = TINY) -> Clip2Video:
    return load_model(size, variant, clip=None, checkpoint=None, seed=seed)


def save(path: Path, state: object) -> str:
    torch.save(state, path)
    return str(path)


def clip_alone(state: State) -> State:
    return {name.removeprefix("clip."): value for name, value in state.items() if name.startswith("clip.")}


def same(model: Clip2Video, state: State) -> None:
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def shaped_as(preset: str) -> State:
    """A CLIP of a preset's shapes that takes no space, in memory or in a file."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in Clip2Video(PRESETS[preset], ZERO_SHOT).clip.state_dict().items()}
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def state() -> State:
    return untrained(0).state_dict()


def test_a_checkpoint_with_all_of_clip_is_enough(tmp_path: Path, state: State) -> None:
    model = load_model(TINY, FULL, clip=None, checkpoint=save(tmp_path / "model.bin", state), seed=None)
    same(model, state)
    assert not model.training


def test_a_checkpoints_clip_goes_before_clip(tmp_path: Path, state: State) -> None:
    other = untrained(1).state_dict()
    clip = save(tmp_path / "clip.pt", clip_alone(other))
    whole = save(tmp_path / "whole.bin", state)
    same(load_model(TINY, FULL, clip=clip, checkpoint=whole, seed=None), state)
    part = {name: value for name, value in state.items() if not name.startswith("clip.")}
    model = load_model(TINY, FULL, clip=clip, checkpoint=save(tmp_path / "part.bin", part), seed=None)
    same(model, {**other, **part})


def test_half_precision_clip_with_openais_notes_is_zero_shot(tmp_path: Path, state: State) -> None:
    half = {name: value.half() for name, value in clip_alone(state).items()}
    notes = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    clip = save(tmp_path / "clip.pt", half | notes)
    model = load_model(TINY, ZERO_SHOT, clip=clip, checkpoint=None, seed=None)
    same(model, {name: value.half().float() for name, value in state.items()})


@pytest.mark.parametrize(
    "variant", [ZERO_SHOT, Variant(temporal="transformer", alignment="tab"), Variant(difference="subtract")]
)
def test_modules_of_other_variants_are_passed_over(variant: Variant, tmp_path: Path, state: State) -> None:
    checkpoint = save(tmp_path / "model.bin", state)
    same(load_model(TINY, variant, clip=None, checkpoint=checkpoint, seed=None), state)


def test_a_checkpoint_may_be_safetensors_or_wrapped(tmp_path: Path, state: State) -> None:
    plain = {name: value.clone() for name, value in state.items()}
    save_file(plain, tmp_path / "model.safetensors")
    wrapped = {"epoch": 2, "state_dict": {f"module.{name}": value for name, value in state.items()}}
    for path in (str(tmp_path / "model.safetensors"), save(tmp_path / "model.bin.2", wrapped)):
        same(load_model(TINY, FULL, clip=None, checkpoint=path, seed=None), state)


def test_files_from_before_zip_are_read(tmp_path: Path, state: State) -> None:
    path = tmp_path / "old.bin"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    same(load_model(TINY, FULL, clip=None, checkpoint=str(path), seed=None), state)


WRONG_ENTRIES: dict[str, tuple[Callable[[State], object], str]] = {
    "seven centres": (
        lambda s: {**s, "weight_center": torch.zeros(7, 128), "emb_center": torch.zeros(7, 128)},
        r"weight_center is \[7, 128\] where \[5, 128\] is asked for.*set model.centers: 7",
    ),
    "no differences": (
        lambda s: {n: v for n, v in s.items() if not n.startswith("frame2t")},
        r"frame2t_attention.resblocks.0.attn.in_proj_weight, .* and 7 more missing; set model.difference: subtract",
    ),
    "no clip": (
        lambda s: {n: v for n, v in s.items() if not n.startswith("clip.")},
        "missing; set model.clip to a whole CLIP",
    ),
    "stranger": (
        lambda s: {**s, "transformerClip.resblocks.4.ln_1.bias": torch.zeros(1)},
        "resblocks.4.* unknown",
    ),
    "clip alone": (clip_alone, "is CLIP alone.*set model.clip to it"),
    "another CLIP": (
        lambda s: {**s, **{f"clip.{name}": value for name, value in shaped_as("vit-b-32").items()}},
        r"clip.visual.class_embedding is \[768\] where .* unknown; .*set model.preset: vit-b-32",
    ),
    "no alignment": (
        lambda s: {n: v for n, v in s.items() if not n.startswith(("actionClip", "weight_center", "emb_center"))},
        "missing; set model.alignment: none, as the file has it",
    ),
    "another difference": (
        lambda s: {
            **{n: v for n, v in s.items() if not n.startswith("frame2t_attention")},
            "frame2t_projection": torch.zeros(128, 128),
        },
        "missing; set model.difference: mlp",
    ),
    "no differences at all": (
        lambda s: {
            n: v for n, v in s.items() if not n.startswith(("frame2t", "trans_layernorm", "type_", "actionClip"))
        },
        "missing; set model.temporal: transformer, model.alignment: none",
    ),
    "other vectors": (
        lambda s: {"frame_position_embeddings.weight": torch.zeros(77, 512)},
        r"is \[77, 512\] where .* and \d+ more missing;",
    ),
    "all at once": (
        lambda s: {
            **{n: v for n, v in s.items() if n != "trans_layernorm.bias"},
            "emb_center": torch.zeros(5, 64),
            "stranger": torch.zeros(1),
        },
        r"emb_center is \[5, 64\] .*; trans_layernorm.bias missing; stranger unknown; ",
    ),
    "quantised": (
        lambda s: {**s, "clip.visual.proj": s["clip.visual.proj"].to(torch.int8)},
        "clip.visual.proj is int8 strided cpu, not plain real numbers",
    ),
    "nested": (lambda s: {"model": s}, "something other than a state dict"),
}


@pytest.mark.parametrize("case", WRONG_ENTRIES)
def test_a_wrong_checkpoint_is_one_clear_line(case: str, tmp_path: Path, state: State) -> None:
    spoil, said = WRONG_ENTRIES[case]
    checkpoint = save(tmp_path / "model.bin", spoil(state))
    with pytest.raises(WeightsError, match=said) as error:
        load_model(TINY, FULL, clip=None, checkpoint=checkpoint, seed=None)
    assert "\n" not in str(error.value) and checkpoint in str(error.value)


@pytest.mark.parametrize("preset", ["vit-b-16", "vit-l-14"])
def test_a_clip_of_another_size_names_the_preset_that_fits(preset: str, tmp_path: Path) -> None:
    clip = save(tmp_path / "clip.pt", shaped_as(preset))
    with pytest.raises(WeightsError, match=f"the file's CLIP is {preset}: set model.preset: {preset}"):
        load_model(PRESETS["vit-b-32"], ZERO_SHOT, clip=clip, checkpoint=None, seed=None)
    more = shaped_as("vit-b-32") | {"transformer.resblocks.12.ln_1.bias": torch.zeros(512)}
    with pytest.raises(WeightsError, match=r"ln_1.bias unknown; .* 12 and 13 layers: no preset has its size"):
        load_model(PRESETS["vit-b-32"], ZERO_SHOT, clip=save(tmp_path / "more.pt", more), checkpoint=None, seed=None)
    resnet = {"visual.layer1.0.conv1.weight": torch.zeros(1), "visual.conv1.weight": torch.zeros(32, 3, 3, 3)}
    with pytest.raises(WeightsError, match="is a ResNet"):
        load_model(TINY, ZERO_SHOT, clip=save(tmp_path / "resnet.pt", resnet), checkpoint=None, seed=None)


def test_a_part_of_clip_is_refused(tmp_path: Path, state: State) -> None:
    part = {name: value for name, value in clip_alone(state).items() if name.startswith("visual.")}
    with pytest.raises(WeightsError, match=r"clip.logit_scale, .* more missing; is the file a whole CLIP"):
        load_model(TINY, ZERO_SHOT, clip=save(tmp_path / "clip.pt", part), checkpoint=None, seed=None)


def test_a_checkpoint_in_clips_place_is_named(tmp_path: Path, state: State) -> None:
    clip = save(tmp_path / "model.bin", state)
    with pytest.raises(WeightsError, match=r"is a trained CLIP2Video.*set model\.checkpoint"):
        load_model(TINY, ZERO_SHOT, clip=clip, checkpoint=None, seed=None)


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "text", "folder"])
def test_files_that_are_not_weights_are_refused(damage: str, tmp_path: Path, state: State) -> None:
    path = tmp_path / "model.bin"
    save(path, state)
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "absent":
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"not found\n"}[damage])
    with pytest.raises(WeightsError, match=r"model\.bin'?: (no such file|cannot be read as weights|a folder of )"):
        load_model(TINY, FULL, clip=None, checkpoint=str(path), seed=None)


def test_nothing_is_random_unless_a_seed_is_given(tmp_path: Path, state: State) -> None:
    clip = save(tmp_path / "clip.pt", clip_alone(state))
    with pytest.raises(WeightsError, match=r"would be random; set model\.checkpoint"):
        load_model(TINY, FULL, clip=clip, checkpoint=None, seed=None)
    with pytest.raises(WeightsError, match="no weights are given"):
        load_model(TINY, ZERO_SHOT, clip=None, checkpoint=None, seed=None)
    with pytest.raises(WeightsError, match=r"leave out model\.seed or the files"):
        load_model(TINY, ZERO_SHOT, clip=clip, checkpoint=None, seed=1)


def test_a_seed_makes_the_same_weights_in_every_variant(state: State) -> None:
    same(untrained(0, Variant(difference="attention", alignment="none")), state)
    other = untrained(1).state_dict()
    assert not torch.equal(other["clip.visual.proj"], state["clip.visual.proj"])
    model = untrained(0)
    assert model.scale == pytest.approx(100)
    assert (model.trans_layernorm.weight == 1).all() and (model.trans_layernorm.bias == 0).all()
    assert model.weight_center.std().item() == pytest.approx(0.125, rel=0.1)


def test_loading_keeps_every_entry_off_the_meta_device(state: State) -> None:
    assert all(value.device.type == "cpu" for value in untrained(0).state_dict().values())
    assert all(value.isfinite().all() for value in state.values())


def test_loading_does_not_import_torchs_compiler(tmp_path: Path, state: State) -> None:
    """It takes a second, and models made without values can do without."""
    path = save(tmp_path / "model.bin", state)
    script = (
        "import sys; from clip2video_pipe.models.presets import *;"
        "from clip2video_pipe.models.weights import load_model;"
        f"load_model(PRESETS['tiny'], Variant(), clip=None, checkpoint={path!r}, seed=None);"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
