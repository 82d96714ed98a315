"""A model is loaded whole and right, or there is one line that says what to change."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
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
        r"frame2t_attention.resblocks.0.attn.in_proj_weight, .* and 7 more missing; set model.temporal",
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
        lambda s: {
            **s,
            "clip.visual.conv1.weight": torch.zeros(768, 3, 32, 32),
            "clip.visual.positional_embedding": torch.zeros(50, 768),
        },
        "set model.preset: vit-b-32",
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
    with pytest.raises(WeightsError, match=r"model\.bin: (no such file|cannot be read as weights)"):
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
