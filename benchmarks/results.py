"""What each part of the model is worth on the demo's clips: `make results` trains all of it and writes docs/results.md.

Each of the paper's four variants is trained with three seeds, by `conf/train/demo.yaml` from the CLIP of
`conf/train/demo-clip.yaml`, and scored by plain runs over the test clips. What has been trained already is not again.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.demo_model import CLIPS, COMMAND, make_clips, train_clip

PAGE = Path("docs/results.md")
SEEDS = (0, 1, 2)
EPOCHS = 12
VARIANTS = {
    "mean pooling": {"temporal": "mean", "alignment": "none"},
    "temporal transformer": {"temporal": "transformer", "alignment": "none"},
    "TDB": {"temporal": "tdb", "alignment": "none"},
    "TDB + TAB": {"temporal": "tdb", "alignment": "tab-tdb"},
}
TEXT = """# What the paper's parts are worth, on clips of shapes

Written by `make results` (`benchmarks/results.py`) from trainings on the machine that it ran on; no figure is typed in.

The clips are those of the demo's model ([training.md](training.md)): {learnt:,} to train on, and {tested:,} to test on,
with words in combinations that the training clips do not have. {pairs} pairs of the latter are alike in every picture
but for their order. One small CLIP that learnt from still pictures is the start of all. Each row is
{trainings} trainings of {epochs} epochs by `conf/train/demo.yaml`, with {seeds} as `train.seed` (of the order, the
captions and the new weights). Per cent, mean ± standard deviation.

{table}

- **R@k**: how often the right clip (t2v) or a right caption (v2t) is among the best k. Chance at t2v R@1 is
  {chance:.1f}.
- **Pairs right**: of the captions of two clips that show the same pictures in opposite order, how many score higher for
  their own clip. Of two clips chance is right once: pooled frames have {pooled:.1f}, the whole model {whole:.1f}.

These are small models on drawn clips. They show whether the parts do what the paper says of them, not how much they add
on real videos.
"""
SIZES = ("learnt", "tested", "pairs")  # clips, clips, pairs of clips
Figures = dict[str, float]


def main() -> None:
    """Train, score, write the page."""
    make_clips()
    train_clip()
    found = {name: [figures(name, settings, seed) for seed in SEEDS] for name, settings in VARIANTS.items()}
    PAGE.write_text(page(found), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def figures(variant: str, settings: dict[str, str], seed: int) -> Figures:
    """Of one training: recalls on the test clips, per cent right of the pairs that differ in order alone, and SIZES."""
    name = f"results-{variant.replace(' ', '').replace('+', '-').lower()}-{seed}"
    model = [word for key, value in settings.items() for word in ("--set", f"model.{key}={value}")]
    told = ["--set", f"name={name}", "--set", f"train.epochs={EPOCHS}", "--set", f"train.validate_every={EPOCHS}"]
    card = said("train", "conf/train/demo.yaml", *told, *model, "--set", f"train.seed={seed}")
    test = ["--set", f"name={name}", "--set", f"dataset.path={CLIPS}/test.jsonl", "--set", f"dataset.root={CLIPS}"]
    test += ["--set", f"model.checkpoint=trained/{name}/model.safetensors", "--set", "embed.precision=float32", *model]
    metrics = said("run", "conf/demo.yaml", *test, "--engine", "inline")["metrics"]
    pairs = said("pairs", "conf/demo.yaml", f"{CLIPS}/test-pairs.jsonl", *test)
    recalls = {
        f"{short} R@{k}": metrics[direction][f"R@{k}"]
        for short, direction in (("t2v", "text_to_video"), ("v2t", "video_to_text"))
        for k in (1, 5)
    }
    tested = metrics["coverage"]["videos"]["asked"]
    sizes = dict(zip(SIZES, (card["data"]["videos"], tested, pairs["pairs"]), strict=True))
    return {**recalls, "pairs right": pairs["right"], **sizes}


def said(*words: str) -> dict[str, Any]:
    """What a command prints with --json."""
    print("$", *words, file=sys.stderr, flush=True)
    done = subprocess.run([*COMMAND, *words, "--json"], check=True, stdout=subprocess.PIPE)
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def page(found: dict[str, list[Figures]]) -> str:
    """The page, from the figures of each variant's trainings."""
    first = next(iter(found.values()))[0]
    columns = [name for name in first if name not in SIZES]
    rows = [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for variant, runs in found.items():
        cells = []
        for column in columns:
            values = [run[column] for run in runs]
            cells.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}")
        rows.append(f"| {variant} | {' | '.join(cells)} |")
    pooled, whole = (
        statistics.mean(run["pairs right"] for run in found[name]) for name in ("mean pooling", "TDB + TAB")
    )
    return TEXT.format(
        **{name: int(first[name]) for name in SIZES},
        chance=100 / first["tested"],
        epochs=EPOCHS,
        trainings=len(SEEDS),
        seeds=", ".join(map(str, SEEDS)),
        table="\n".join(rows),
        pooled=pooled,
        whole=whole,
    )


if __name__ == "__main__":
    main()
