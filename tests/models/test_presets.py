"""Sizes and variants: what exists, and what is refused."""

import pytest
import torch
from torch import nn

from clip2video_pipe.models.clip2video import Clip2Video
from clip2video_pipe.models.presets import PRESETS, Variant


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def shapes(preset: str) -> Clip2Video:
    with torch.device("meta"):
        return Clip2Video(PRESETS[preset], Variant())


def test_tiny_is_tiny() -> None:
    assert 1e6 < count(shapes("tiny")) < 3e6


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("vit-b-32", 151_277_313), ("vit-b-16", 149_620_737), ("vit-l-14", 427_616_513)],
)
def test_the_others_are_as_large_as_openais(preset: str, parameters: int) -> None:
    assert count(shapes(preset).clip) == parameters


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"temporal": "mean", "alignment": "tab-tdb"}, "set temporal to 'tdb'"),
        ({"temporal": "transfomer"}, "did you mean 'transformer'"),
        ({"difference": "none"}, "difference is 'none'"),
        ({"centers": 0}, "centers is 0"),
    ],
)
def test_variants_that_cannot_be_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Variant(**wrong)  # type: ignore[arg-type]
