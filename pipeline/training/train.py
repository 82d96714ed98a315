"""A training: frames of all videos, the pairs that they give, a place for what is made; then the workers' loop."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip2video_pipe.manifests import keys
from clip2video_pipe.manifests.fingerprints import Fingerprints
from clip2video_pipe.manifests.schemas import OK
from clip2video_pipe.manifests.shards import versions, well
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.config import public
from clip2video_pipe.pipeline.errors import RequestError, TooManyFailures
from clip2video_pipe.pipeline.plan import Plan, model_spec
from clip2video_pipe.pipeline.progress import Reporter
from clip2video_pipe.pipeline.run import decode
from clip2video_pipe.pipeline.settings import ProtocolDataset, TableDataset
from clip2video_pipe.pipeline.training import checkpoints
from clip2video_pipe.pipeline.training.checkpoints import begin
from clip2video_pipe.pipeline.training.configs import frames_config, validation_config
from clip2video_pipe.pipeline.training.data import Sample, window_of
from clip2video_pipe.pipeline.training.settings import TrainConfig
from clip2video_pipe.pipeline.training.telling import EVENTS

if TYPE_CHECKING:
    from clip2video_pipe.pipeline.training.loop import Training

HELD_OUT = "held-out.jsonl"
LEAST_HELD = 2
CARD = "card.json"
NO_CAPTIONS = "video-without-captions"
# Settings that change no number of what is made, so that training goes on when they are changed.
UNCOUNTED: dict[str, Any] = {
    "train": {"out", "threads", "memory", "save_every"},  # of memory, what follows from it counts: the window
    **dict.fromkeys(("run", "store", "score", "report"), True),
}


@dataclass(frozen=True)
class Trained:
    """What a training made."""

    out: Path
    best: dict[str, Any]  # the epoch that validated best: its number from 0, loss and figures
    card: dict[str, Any]


def train(config: TrainConfig, reporter: Reporter) -> Trained:
    """Train to the end, or go on with what was stopped. Raises RequestError, WeightsError and what a stage raised.

    A video that cannot be decoded is a gap, which the card counts; more of them than `run.max_failure_rate` raise
    TooManyFailures.
    """
    from clip2video_pipe.pipeline.training.workers import train_here, train_on_ray

    _check(config)
    out = Path(config.train.out or f"trained/{config.name}").absolute()
    plan = decode(frames_config(config), reporter)
    samples, gaps = _samples(plan)
    _check_gaps(gaps, plan)
    held: set[str] = set()
    if config.validation is None:
        samples, held = _hold_out(samples, config.train.held_out, config.train.seed)
    if min(config.train.batch, len(samples)) < config.train.workers:
        raise RequestError(
            f"train.workers: is {config.train.workers}, more than the videos of a batch: train.batch is "
            f"{config.train.batch}, and there are {len(samples)} videos"
        )
    training = _training(config, plan, samples, out)
    begin(out, training.identity)
    if held:
        _write_table(out / HELD_OUT, plan, held)
        config = config.model_copy(update={"validation": TableDataset(kind="table", path=(str(out / HELD_OUT),))})
    # Here, on all of the cluster: the first worker validates, while the others wait for it.
    validation = decode(validation_config(config), reporter)
    if not validation.texts:
        raise RequestError("validation: has no captions, so that nothing can be measured; leave it out, or name others")
    if (videos := _that_can_be_scored(validation)) < LEAST_HELD:
        raise RequestError(f"validation: {videos} videos that decode, at least {LEAST_HELD} are needed to rank any")
    training = replace(training, config=config)
    (train_here if config.run.engine == "inline" else train_on_ray)(training, reporter.say)
    return _finish(training, plan, gaps)


def _check(config: TrainConfig) -> None:
    """That what is trained on may be, and is not what is tested on. Raises RequestError."""
    dataset, validation = config.dataset, config.validation
    if isinstance(dataset, ProtocolDataset) and dataset.split != "train":
        raise RequestError(f"dataset.split: is {dataset.split!r}; a model is trained on 'train'")
    if isinstance(validation, ProtocolDataset) and validation.split != "val":
        raise RequestError(
            f"validation.split: is {validation.split!r}; a test list chooses no epoch: use 'val', or leave validation "
            "out, and a seeded share of the training videos serves (train.held_out)"
        )
    if validation is not None and validation == dataset:
        raise RequestError("validation: is the training dataset itself; leave it out, and a share of it is held out")


def _that_can_be_scored(plan: Plan) -> int:
    """Videos, by content, whose frames are there."""
    frames = plan.frames.places
    contents = set(plan.listing.videos["video"].drop_null().to_pylist())
    return sum(frames[item].outcome.status == OK for item in contents)


def _samples(plan: Plan) -> tuple[list[Sample], dict[str, int]]:
    """The videos that can be learnt from, by content, and how many cannot, by class. Raises RequestError for none."""
    captions = _captions(plan)
    found: dict[str, dict[str, None]] = {}
    gaps = Counter[str]()
    frames = plan.frames.places
    for row in plan.listing.videos.select(["video_id", "video", "error"]).to_pylist():
        said = captions.get(row["video_id"])
        if row["video"] is None:
            gaps[row["error"]] += 1
        elif (place := frames[row["video"]]).outcome.status != OK:
            gaps[str(place.outcome.error)] += 1
        elif not said:
            gaps[NO_CAPTIONS] += 1
        else:
            found.setdefault(row["video"], {}).update(dict.fromkeys(said))
    if len(found) < 2:
        why = ", ".join(f"{count} {name}" for name, count in sorted(gaps.items())) or "the dataset has no others"
        raise RequestError(f"dataset: {len(found)} videos with captions to train on, at least 2 are needed ({why})")
    samples = [Sample(item, frames[item].shard, frames[item].row, tuple(said)) for item, said in found.items()]
    return sorted(samples, key=lambda sample: sample.item), dict(gaps)


def _captions(plan: Plan) -> dict[str, list[str]]:
    """The cleaned captions of each video id that has any, in order."""
    texts: dict[str, list[str]] = {}
    for row in well(plan.listing.captions.select(["video_id", "text", "status"])).to_pylist():
        texts.setdefault(row["video_id"], []).append(row["text"])
    return texts


def _check_gaps(gaps: Mapping[str, int], plan: Plan) -> None:
    failed = sum(count for name, count in gaps.items() if name != NO_CAPTIONS)
    asked, rate = len(plan.listing.videos), plan.config.run.max_failure_rate
    if failed > rate * asked:
        raise TooManyFailures(
            f"{failed} of {asked} videos failed, more than run.max_failure_rate {rate} allows; frames of the others "
            "are kept, and 'explain' says what is wrong with one"
        )


def _hold_out(samples: list[Sample], part: float, seed: int) -> tuple[list[Sample], set[str]]:
    """The samples to train on, and the items held out: at least two of each, or no rank could be told from another."""
    count = min(max(LEAST_HELD, round(part * len(samples))), len(samples) - 2)
    if count < LEAST_HELD:
        raise RequestError(
            f"dataset: {len(samples)} videos to train on; to hold {LEAST_HELD} out at least {2 + LEAST_HELD} are needed"
        )
    chosen = np.random.default_rng([seed, len(samples)]).permutation(len(samples))[:count]
    held = {samples[n].item for n in chosen.tolist()}
    return [sample for sample in samples if sample.item not in held], held


def _write_table(path: Path, plan: Plan, items: set[str]) -> None:
    """The videos of these contents, with their captions, as a table that `run` reads."""
    listed = plan.listing
    texts = _captions(plan)
    rows = []
    for row in listed.videos.select(["video_id", "video"]).to_pylist():
        if row["video"] in items and row["video_id"] in texts:
            source = listed.sources[row["video"]]
            path_said = source.path if "://" in source.path else str(Path(source.path).absolute())
            said: dict[str, Any] = {"video_id": row["video_id"], "video": path_said, "captions": texts[row["video_id"]]}
            said |= {n: v for n, v in (("start", source.start), ("end", source.end)) if v is not None}
            rows.append(said)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _training(config: TrainConfig, plan: Plan, samples: list[Sample], out: Path) -> "Training":
    from clip2video_pipe.pipeline.training.loop import Training

    model = model_spec(config, Fingerprints(plan.store))
    places, size = plan.frames.places, model.size.image_size
    shards = {sample.shard: places.shards[sample.shard].rows for sample in samples}
    most = config.sampling.max_frames * (config.sampling.candidates if config.sampling.policy == "jitter" else 1)
    video = most * size * size * 3  # bytes, at most
    window = min(len(shards), window_of((rows * video for rows in shards.values()), config.train.memory))
    data = keys.digest([[sample.item, list(sample.captions)] for sample in samples])
    # The order of an epoch follows from them: a checkpoint says how many of its batches are done.
    layout = [window, [[sample.shard, sample.row] for sample in samples]]
    counted = config.model_dump(mode="json", exclude=UNCOUNTED)
    return Training(
        config=config,
        model=model,
        samples=samples,
        stage=plan.frames.name,
        key=plan.frames.identity.key,
        rows=shards,
        window=window,
        out=out,
        identity=keys.digest({"config": public(counted), "data": data, "layout": layout, "model": model.digest}),
        data=data,
    )


def _finish(training: "Training", plan: Plan, gaps: dict[str, int]) -> Trained:
    """The card of what was made, beside it."""
    state = checkpoints.load_checkpoint(training.out)
    assert state is not None and state["best"] is not None, "a training that has ended has a checkpoint"
    card = {
        "config": public(training.config.model_dump(mode="json")),
        "recipe": "CLIP4Clip's (docs/training.md)",
        "data": {"digest": training.data, "videos": len(training.samples), "gaps": gaps},
        "start": training.model.digest,
        "epochs": state["history"],
        "best": state["best"],
        "versions": versions(),
        "files": {"best": checkpoints.BEST, "events": EVENTS},
    }
    Store(str(training.out)).write_json(card, CARD)
    return Trained(training.out, state["best"], card)
