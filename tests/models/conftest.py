"""The golden model, small, with weights from tests/golden/inputs.py, and what the original says of it."""

import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clip2video_pipe.models.clip2video import Clip2Video
from clip2video_pipe.models.presets import PRESETS, ClipSize, Variant
from clip2video_pipe.models.weights import load_model

GOLDEN = Path(__file__).parents[1] / "golden"
TINY, ZERO_SHOT = PRESETS["tiny"], Variant(temporal="mean", alignment="none")
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


class LikeOpenAI(nn.Module):
    """Half-precision CLIP with OpenAI's three notes, and an attention mask that is no weight."""

    def __init__(self) -> None:
        super().__init__()
        clip = load_model(TINY, ZERO_SHOT, clip=None, checkpoint=None, seed=3).clip.half()
        self.visual, self.transformer, self.ln_final = clip.visual, clip.transformer, clip.ln_final
        self.token_embedding, self.positional_embedding = clip.token_embedding, clip.positional_embedding
        self.text_projection, self.logit_scale = clip.text_projection, clip.logit_scale
        self.attn_mask = torch.zeros(77, 77)
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(getattr(TINY, name, TINY.image_size)))

    def forward(self, pixels: Tensor) -> Tensor:
        vectors: Tensor = self.visual(pixels)
        return vectors + self.attn_mask.sum()


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP, untrained with seed 3, as OpenAI writes its own."""
    path = tmp_path_factory.mktemp("torchscript") / "tiny.pt"
    pixels = torch.zeros(1, 3, TINY.image_size, TINY.image_size)
    with warnings.catch_warnings():  # torch.jit is on its way out; the archives of 2021 stay as they are
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(LikeOpenAI().eval(), pixels, check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, path)
    return path
