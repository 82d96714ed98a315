"""In which precision a machine computes best, and a model made ready for it. Finding out needs no torch."""

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from clip2video_pipe.models.clip2video import Clip2Video

Precision = Literal["float32", "bfloat16", "float16"]

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is ARM's
BFLOAT16_CAPABILITY = 8.0  # of an NVIDIA GPU: Ampere
FLOAT16_CAPABILITY = 7.0  # Volta: older ones have no fast half precision


def best_precision(device: str) -> Precision:
    """What `auto` means on `device` (`auto`, `cpu`, `cuda`, `cuda:1`) of this machine.

    bfloat16 where the hardware multiplies it, float16 on older GPUs, else float32.
    """
    capability = None if device == "cpu" else _gpu_capability()
    if capability is None:
        return "bfloat16" if _cpu_flags() & BFLOAT16_FLAGS else "float32"
    if capability >= BFLOAT16_CAPABILITY:
        return "bfloat16"
    return "float16" if capability >= FLOAT16_CAPABILITY else "float32"


def _cpu_flags() -> set[str]:
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}


def _gpu_capability() -> float | None:
    """The lowest compute capability among this machine's GPUs; None without one, or where they are hidden."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return None
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
        return min(map(float, found.stdout.split()), default=None)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def prepare(model: "Clip2Video", precision: Precision, device: str) -> "Clip2Video":
    """The model on `device`, CLIP's large products in `precision`; it is for inference alone from then on.

    Norms, softmax, residuals, projections, the temporal modules and all vectors stay float32.
    """
    import torch

    from clip2video_pipe.models.packed import can_pack, pack
    from clip2video_pipe.models.transformer import Block

    model = model.to(device).requires_grad_(False)
    if precision == "float32":
        return model
    if precision == "bfloat16" and can_pack(model.device):
        pack(model.clip)
        return model
    low = getattr(torch, precision)
    for module in model.clip.modules():
        if isinstance(module, Block):
            for part in (module.attn, module.mlp):
                part.to(low)
    model.clip.visual.conv1.to(low)
    return model


def compile_images(model: "Clip2Video", backend: str = "inductor") -> None:
    """From now on the image tower, nearly all of the work, runs through torch.compile."""
    model.clip.visual.compile(dynamic=True, backend=backend)
