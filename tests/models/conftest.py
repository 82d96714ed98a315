"""The golden model, small, with weights from tests/golden/inputs.py, and what the original says of it."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clip2video_pipe.models.clip2video import Clip2Video
from clip2video_pipe.models.presets import ClipSize, Variant

GOLDEN = Path(__file__).parents[1] / "golden"
SMALL = ClipSize(224, 32, 64, 2, 512, 77, 640, 512, 8, 2)


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "model.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def token_cases() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((GOLDEN / "tokens.json").read_text())
    return cases


@pytest.fixture(scope="session")
def golden_pixels(golden_inputs: ModuleType) -> Tensor:
    """float32 [5, 12, 3, 224, 224], normalised; padding frames are zero."""
    return torch.from_numpy(golden_inputs.frames())


@pytest.fixture(scope="session")
def small_model(golden_inputs: ModuleType) -> Callable[[Variant], Clip2Video]:
    """Makes the golden model of a variant, in eval mode, once a session: leave its weights alone."""

    @cache
    def make(variant: Variant) -> Clip2Video:
        with torch.device("meta"):
            model = Clip2Video(SMALL, variant)
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        state = {name: torch.from_numpy(golden_inputs.array(name, shape)) for name, shape in shapes.items()}
        model.load_state_dict(state, assign=True)
        return model.eval()

    return make
