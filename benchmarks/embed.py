"""How fast the model runs, as ratios: `make bench-embed`. ViT-B/32 of full size with seeded weights; minutes."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.plain_clip import PlainImageTower, PlainTextTower
from benchmarks.ratios import Ratio, conclude, seconds
from clip2video_pipe.models.clip import normalise_pictures
from clip2video_pipe.models.clip2video import WIDTH_STEP, Clip2Video
from clip2video_pipe.models.precision import best_precision, prepare
from clip2video_pipe.models.presets import PRESETS, Variant
from clip2video_pipe.models.weights import load_model
from clip2video_pipe.stages.batches import by_length
from clip2video_pipe.stages.caption_embeddings import TOKENS
from clip2video_pipe.stages.datasets.shapes import write_clips

SIZE = PRESETS["vit-b-32"]
GFLOP = 8.8  # of a picture through ViT-B/32's image tower
SQUARES = (512, 1024, 2048, 3072, 4096)
PICTURES = 96
CLIPS = 16
LENGTHS = range(4, 13)  # frames of a clip, in turn


def model(precision: str) -> Clip2Video:
    loaded = load_model(SIZE, Variant(), clip=None, checkpoint=None, seed=0)
    return prepare(loaded, precision, "cpu")  # type: ignore[arg-type]


def pictures(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 224, 224, 3), dtype=torch.uint8)


def image_tower(fast: Clip2Video) -> list[Ratio]:
    plain = PlainImageTower(SIZE).eval()
    some = pictures(PICTURES)
    few = some[:24]
    squares = [torch.randn(n, n, dtype=torch.bfloat16) for n in SQUARES]
    ours, theirs, *products = seconds(
        lambda: fast.clip.visual.embed(some),
        lambda: plain(normalise_pictures(few)),
        *(lambda square=square: square @ square.T for square in squares),  # type: ignore[misc]
    )
    rate, plain_rate = PICTURES / ours, len(few) / theirs
    best = max(2 * n**3 / taken / 1e9 for n, taken in zip(SQUARES, products, strict=True))
    speeds = f"{rate:.1f} and {plain_rate:.1f} a second"
    flops = f"{rate * GFLOP:.0f} of {best:.0f} GFLOP/s"
    return [
        Ratio("pictures/s over plain float32", rate / plain_rate, 4.0, detail=speeds),
        Ratio("image tower over the best square bfloat16 product", rate * GFLOP / best, 0.75, detail=flops),
    ]


def captions(fast: Clip2Video) -> Ratio:
    """Lengths like VATEX's: about 15 words, 17 tokens with start and end, few above 30."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.normal(17, 5, 1024).round(), 6, 32).astype(int)
    mask = torch.from_numpy(np.arange(32) < lengths[:, None])
    ids = torch.randint(1, 49000, mask.shape) * mask
    ids[torch.arange(len(ids)), torch.from_numpy(lengths) - 1] = 49407
    plain = PlainTextTower(SIZE).eval()

    def ours() -> None:
        for group in by_length(lengths.tolist(), WIDTH_STEP, TOKENS):
            fast.embed_captions(ids[group], mask[group])

    quick, slow = seconds(ours, lambda: plain(ids[:128]))
    rate, plain_rate = len(ids) / quick, 128 / slow
    speeds = f"{rate:.0f} and {plain_rate:.0f} a second"
    return Ratio("captions/s over plain float32 at 32 tokens", rate / plain_rate, 5.0, detail=speeds)


def videos(fast: Clip2Video) -> Ratio:
    """12 uint8 frames at most in, both vectors out; the other way computes padding to 12 in float32."""
    counts = [LENGTHS[n % len(LENGTHS)] for n in range(CLIPS)]
    some = pictures(sum(counts))
    plain, slow = PlainImageTower(SIZE).eval(), model("float32")
    few = counts[:4]
    mask = torch.arange(12) < torch.tensor(few)[:, None]
    padded = torch.zeros(len(few) * 12, 3, 224, 224)
    padded[mask.flatten()] = normalise_pictures(some[: sum(few)])
    quick, theirs = seconds(
        lambda: fast.embed_videos(some, counts, 12),
        lambda: slow.video_vectors(plain(padded).view(len(few), 12, -1), mask),
    )
    rate, plain_rate = CLIPS / quick, len(few) / theirs
    speeds = f"{rate:.2f} and {plain_rate:.2f} videos a second"
    return Ratio("videos/s over float32 with padding computed", rate / plain_rate, 5.0, detail=speeds)


def stage(repeats: int = 5) -> Ratio:
    """The embedding stage on 256 clips on Ray: from the driver's first unit sent to its last one come back.

    Model time is that of `process`: the model, and the making of columns from its vectors. Loading is not in either.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_clips(path / "clips", 256, seconds=3.0)
        config = {
            "name": "bench",
            "dataset": {"kind": "folder", "path": str(path / "clips")},
            "model": {"preset": "vit-b-32", "seed": 0},
            "store": str(path / "store"),
        }
        (path / "bench.yaml").write_text(json.dumps(config))
        found = [_stage_ratio(path, seed) for seed in range(repeats + 1)][1:]  # the first run decodes as well
    found.sort(key=lambda pair: pair[0] / pair[1])
    wall, busy = found[len(found) // 2]
    ratios = [wall / busy for wall, busy in found]
    detail = f"{wall:.1f} s and {busy:.1f} s; {ratios[0]:.3f} to {ratios[-1]:.3f}"
    return Ratio("wall of the embedding stage over its model time", wall / busy, 1.10, at_most=True, detail=detail)


def _stage_ratio(path: Path, seed: int) -> tuple[float, float]:
    command = ["run", str(path / "bench.yaml"), "--json", "--set", f"model.seed={seed}"]
    done = subprocess.run(
        [sys.executable, "-m", "clip2video_pipe.pipeline.cli", *command], check=True, capture_output=True, text=True
    )
    events = (Path(json.loads(done.stdout)["run_dir"]) / "events.jsonl").read_text().splitlines()
    said = [event for event in map(json.loads, events) if event.get("stage") == "video_embeddings"]
    started = min(event["time"] for event in said if event["event"] == "started")
    units = [event for event in said if event["event"] == "finished"]
    return max(unit["time"] for unit in units) - started, sum(unit["busy"] for unit in units)


def main() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    precision = best_precision("cpu")
    print(f"{torch.get_num_threads()} cores, precision auto is {precision}, torch {torch.__version__}")
    fast = model(precision)
    with torch.inference_mode():
        ratios = [*image_tower(fast), captions(fast), videos(fast)]
    conclude([*ratios, stage()])


if __name__ == "__main__":
    main()
