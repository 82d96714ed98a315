"""The demo's model, trained and packed: `make demo-model`, 25 minutes on two cores."""

import subprocess
import sys
from pathlib import Path

import safetensors.torch
import torch

CLIPS = Path("data/demo-train")
MODEL = Path("models/demo.safetensors")
COMMAND = [sys.executable, "-m", "clip2video_pipe.pipeline.cli"]


def main() -> None:
    """Make clips, train a CLIP on their stills, train CLIP2Video from it, and pack the best in half precision."""
    make_clips()
    train_clip()
    subprocess.run([*COMMAND, "train", "conf/train/demo.yaml"], check=True)
    weights = safetensors.torch.load_file("trained/demo/model.safetensors")
    # The scale is kept as it is: scores are in its units.
    half = {name: value if value.ndim == 0 else value.to(torch.float16) for name, value in weights.items()}
    safetensors.torch.save_file(half, MODEL)
    print(f"{MODEL}: {MODEL.stat().st_size / 1e6:.1f} MB")


def make_clips() -> None:
    """The clips to test on are among them, so that no clip to train on shows what they show."""
    counts = ["--train", "3000", "--val", "100", "--test", "200"]
    subprocess.run([*COMMAND, "make-clips", str(CLIPS), "--seed", "0", *counts], check=True)


def train_clip() -> None:
    """The CLIP that CLIP2Video is trained from."""
    subprocess.run([*COMMAND, "train", "conf/train/demo-clip.yaml"], check=True)


if __name__ == "__main__":
    main()
