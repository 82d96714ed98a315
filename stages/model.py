"""Which model a stage uses, and the one copy of it that a worker process keeps."""

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from clip2video_pipe.models.errors import DeviceError
from clip2video_pipe.models.precision import Precision, compile_images, prepare
from clip2video_pipe.models.presets import PRESETS, ClipSize, Variant

if TYPE_CHECKING:
    from clip2video_pipe.models.clip2video import Clip2Video


@dataclass(frozen=True)
class ModelSpec:
    """A model: its sizes, its variant, and where its weights lie; `digest` says what the weights are."""

    preset: str
    variant: Variant
    digest: str
    clip: str | None = None
    checkpoint: str | None = None
    seed: int | None = None

    @property
    def size(self) -> ClipSize:
        return PRESETS[self.preset]

    def alignment_params(self) -> dict[str, Any]:
        """What a caption's vectors depend on besides the weights."""
        aligned = self.variant.alignment != "none"
        return {"preset": self.preset, "centers": self.variant.centers if aligned else None}

    def video_params(self) -> dict[str, Any]:
        """What a video's vectors depend on besides the weights."""
        variant = self.variant
        return {
            **self.alignment_params(),
            "temporal": variant.temporal,
            "difference": variant.difference if variant.temporal == "tdb" else None,
            "alignment": variant.alignment,
        }

    def load(self, precision: Precision, device: str, compiled: bool) -> "Clip2Video":
        """The model, ready to use on `device` (`auto`: a GPU where there is one). One copy a process.

        `compiled`: through torch.compile, on a GPU; it takes a minute, and on a CPU the packed layers are faster.
        """
        return _load(self, precision, device, compiled)


@lru_cache(maxsize=1)
def _load(spec: ModelSpec, precision: Precision, device: str, compiled: bool) -> "Clip2Video":
    # Asks MKL for the same bits whatever the number of threads, so that who computes a shard does not matter. It
    # counts only if it is said before the first product, and costs nothing that could be measured.
    os.environ.setdefault("MKL_CBWR", "AUTO")
    import torch

    from clip2video_pipe.models.weights import load_model

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("embed.device is 'cuda', but torch sees no GPU here; use 'auto' or 'cpu'")
    model = load_model(spec.size, spec.variant, clip=spec.clip, checkpoint=spec.checkpoint, seed=spec.seed)
    model = prepare(model, precision, device)
    if compiled and model.device.type == "cuda":
        compile_images(model)
    return model
