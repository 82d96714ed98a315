"""TorchScript archives are read as `torch.jit.load` would, without running what is in them."""

from pathlib import Path

import pytest
import torch

from clip2video_pipe.models.presets import PRESETS, Variant
from clip2video_pipe.models.torchscript import is_archive, read_archive
from clip2video_pipe.models.weights import load_model

# torch.jit is on its way out, and tracing warns about shapes; the archives of 2021 stay as they are.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")

SIZE, ZERO_SHOT = PRESETS["tiny"], Variant(temporal="mean", alignment="none")


def test_the_tensors_are_those_of_jit_load(archive: Path) -> None:
    ours = read_archive(archive)
    theirs = torch.jit.load(archive).state_dict()  # type: ignore[no-untyped-call]
    assert is_archive(archive) and ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0)


def test_an_archive_makes_a_float32_model(archive: Path) -> None:
    model = load_model(SIZE, ZERO_SHOT, clip=str(archive), checkpoint=None, seed=None)
    seeded = load_model(SIZE, ZERO_SHOT, clip=None, checkpoint=None, seed=3)
    for name, value in seeded.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value.half().float(), rtol=0, atol=0)
