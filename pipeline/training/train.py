"""A training: frames of all videos, the pairs that they give, a place for what is made; then the workers' loop."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip2video_pipe.manifests import keys
from clip2video_pipe.manifests.fingerprints import Fingerprints
from clip2video_pipe.manifests.schemas import OK
from clip2video_pipe.manifests.shards import versions, well
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.alone import alone
from clip2video_pipe.pipeline.config import public
from clip2video_pipe.pipeline.errors import RequestError, TooManyFailures
from clip2video_pipe.pipeline.plan import Plan, model_spec
from clip2video_pipe.pipeline.progress import Reporter
from clip2video_pipe.pipeline.run import decode
from clip2video_pipe.pipeline.settings import ProtocolDataset, TableDataset
from clip2video_pipe.pipeline.training import checkpoints
from clip2video_pipe.pipeline.training.checkpoints import Beginning, begin
from clip2video_pipe.pipeline.training.configs import frames_config, validation_config
from clip2video_pipe.pipeline.training.data import Sample, window_of
from clip2video_pipe.pipeline.training.settings import TrainConfig
from clip2video_pipe.pipeline.training.telling import EVENTS
from clip2video_pipe.pipeline.words import several
from clip2video_pipe.stages.model import ModelSpec

if TYPE_CHECKING:
    from clip2video_pipe.pipeline.training.loop import Training

HELD_OUT = "held-out.jsonl"
LEAST_LEARNT = LEAST_HELD = 2  # or no rank could be told from another
CARD = "card.json"
NO_CAPTIONS = "video-without-captions"
# Settings that change no number of what is made, so that training goes on when they are changed.
UNCOUNTED: dict[str, Any] = {
    "train": {"out", "threads", "memory", "save_every"},
    "score": {"top_k", "save_matrix", "memory", "post", "query_bank"},  # ties are ranks, which choose the best
    **dict.fromkeys(("run", "store", "report"), True),
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
    learnt = _usable(plan)
    if len(learnt.samples) < LEAST_LEARNT:
        raise RequestError(
            f"dataset: {len(learnt.samples)} videos with captions to train on, at least {LEAST_LEARNT} are needed "
            f"({learnt.why})"
        )
    _check_gaps("dataset", learnt, plan)
    measured = _measured(config, reporter) if config.validation else None
    with alone(out / ".lock", f"train.out: another process trains into {str(out)!r}; wait, or name another folder"):
        training, beginning = _begin(config, plan, learnt, measured, out, reporter)
        if measured is None:
            _write_table(out / HELD_OUT, plan, set(beginning.held_out))
            held_out = TableDataset(kind="table", path=(str(out / HELD_OUT),))
            training = replace(training, config=config.model_copy(update={"validation": held_out}))
            measured = _measured(training.config, reporter)
        if _digest(measured.samples) != beginning.measured:
            reporter.say(
                "WARNING: validation: not the videos and captions that this training began with; figures of the epochs "
                "from here on are of others than those before"
            )
        (train_here if config.run.engine == "inline" else train_on_ray)(training, reporter.say)
        return _finish(training, learnt, measured)


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
    if config.run.engine == "inline" and config.train.workers > 1:
        raise RequestError(
            f"train.workers: is {config.train.workers}, but the inline engine has one; use run.engine: ray"
        )


@dataclass(frozen=True)
class Usable:
    """Videos that decode and have captions, by content, in its order; and how many others there are, by class."""

    samples: list[Sample]
    gaps: dict[str, int]

    @property
    def why(self) -> str:
        """There are no more."""
        return ", ".join(f"{count} {name}" for name, count in sorted(self.gaps.items())) or "it has no others"


def _measured(config: TrainConfig, reporter: Reporter) -> Usable:
    """What is validated on, decoded: here, on all of a cluster, for the first worker validates alone.

    Raises RequestError, TooManyFailures.
    """
    plan = decode(validation_config(config), reporter)
    found = _usable(plan)
    if len(found.samples) < LEAST_HELD:
        raise RequestError(
            f"validation: videos with captions to rank: {len(found.samples)}, at least {LEAST_HELD} are needed "
            f"({found.why}); leave it out, and a share of the training videos serves"
        )
    _check_gaps("validation", found, plan)
    return found


def _usable(plan: Plan) -> Usable:
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
    samples = [Sample(item, frames[item].shard, frames[item].row, tuple(said)) for item, said in found.items()]
    return Usable(sorted(samples, key=lambda sample: sample.item), dict(gaps))


def _captions(plan: Plan) -> dict[str, list[str]]:
    """The cleaned captions of each video id that has any, in order."""
    texts: dict[str, list[str]] = {}
    for row in well(plan.listing.captions.select(["video_id", "text", "status"])).to_pylist():
        texts.setdefault(row["video_id"], []).append(row["text"])
    return texts


def _check_gaps(which: str, found: Usable, plan: Plan) -> None:
    failed = sum(count for name, count in found.gaps.items() if name != NO_CAPTIONS)
    asked, rate = len(plan.listing.videos), plan.config.run.max_failure_rate
    if failed > rate * asked:
        raise TooManyFailures(
            f"{which}: {failed} of {asked} videos failed, more than run.max_failure_rate {rate} allows; frames of the "
            "others are kept, and 'explain' says what is wrong with one"
        )


def _hold_out(samples: list[Sample], part: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """The samples to train on, and those held out: the least that is needed of each, at least."""
    count = min(max(LEAST_HELD, round(part * len(samples))), len(samples) - LEAST_LEARNT)
    if count < LEAST_HELD:
        raise RequestError(
            f"dataset: {len(samples)} videos to train on; to hold {LEAST_HELD} out at least "
            f"{LEAST_LEARNT + LEAST_HELD} are needed"
        )
    chosen = np.random.default_rng([seed, len(samples)]).permutation(len(samples))[:count]
    held = set(chosen.tolist())
    parts: tuple[list[Sample], list[Sample]] = [], []
    for n, sample in enumerate(samples):
        parts[n in held].append(sample)
    return parts


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


def _begin(
    config: TrainConfig, plan: Plan, learnt: Usable, measured: Usable | None, out: Path, reporter: Reporter
) -> tuple["Training", Beginning]:
    """A new training, or the one that `out` is of, which goes on with what it began with."""
    model = model_spec(config, Fingerprints(plan.store))
    counted = config.model_dump(mode="json", exclude=UNCOUNTED)
    identity = keys.digest({"config": public(counted), "model": model.digest})
    if beginning := checkpoints.beginning(out, identity):
        samples = _begun_with(beginning, learnt, reporter)
    else:
        samples, held = learnt.samples, measured.samples if measured else []
        if measured is None:
            samples, held = _hold_out(samples, config.train.held_out, config.train.seed)
        shards = {shard: number for number, shard in enumerate(sorted({sample.shard for sample in samples}))}
        beginning = Beginning(
            identity=identity,
            window=_fit(config, plan, model.size.image_size, shards),
            groups={sample.item: shards[sample.shard] for sample in samples},
            pairs=_digest(samples),
            measured=_digest(held),
            held_out=[sample.item for sample in held] if measured is None else [],
        )
        begin(out, beginning)
    samples = [replace(sample, group=beginning.groups[sample.item]) for sample in samples]
    if min(config.train.batch, len(samples)) < config.train.workers:
        raise RequestError(
            f"train.workers: is {config.train.workers}, more than the videos of a batch: train.batch is "
            f"{config.train.batch}, and there are {len(samples)} videos"
        )
    return _training(config, plan, model, samples, beginning, out), beginning


def _begun_with(beginning: Beginning, learnt: Usable, reporter: Reporter) -> list[Sample]:
    """What a training began with, in order. Raises RequestError where they, or their captions, have changed."""
    there = {sample.item: sample for sample in learnt.samples}
    if gone := sum(item not in there for item in beginning.groups):
        raise RequestError(
            f"dataset: {gone} of the {len(beginning.groups)} videos that this training began with cannot be learnt "
            f"from now ({learnt.why}); put them back, or begin another one (train.out, or name)"
        )
    samples = [there[item] for item in beginning.groups]
    if _digest(samples) != beginning.pairs:
        raise RequestError(
            "dataset: the captions are not those that this training began with; put them back, or begin another one "
            "(train.out, or name)"
        )
    if more := len(there) - len(samples) - len(beginning.held_out):
        reporter.say(f"{several(more, 'video was', 'videos were')} not there when this training began: left out of it")
    return samples


def _fit(config: TrainConfig, plan: Plan, size: int, shards: Iterable[str]) -> int:
    """How many of these shards `train.memory` has room for; `size`: pixels of a picture."""
    most = config.sampling.max_frames * (config.sampling.candidates if config.sampling.policy == "jitter" else 1)
    rows = [plan.frames.places.shards[shard].rows for shard in shards]
    return min(len(rows), window_of((count * most * size * size * 3 for count in rows), config.train.memory))


def _training(
    config: TrainConfig, plan: Plan, model: ModelSpec, samples: list[Sample], beginning: Beginning, out: Path
) -> "Training":
    from clip2video_pipe.pipeline.training.loop import Training

    shards = {sample.shard: plan.frames.places.shards[sample.shard].rows for sample in samples}
    return Training(
        config=config,
        model=model,
        samples=samples,
        stage=plan.frames.name,
        key=plan.frames.identity.key,
        rows=shards,
        window=beginning.window,
        keep=_fit(config, plan, model.size.image_size, shards),
        out=out,
        identity=beginning.identity,
        data=beginning.pairs,
    )


def _digest(samples: list[Sample]) -> str:
    return keys.digest([[sample.item, list(sample.captions)] for sample in samples])


def _finish(training: "Training", learnt: Usable, measured: Usable) -> Trained:
    """The card of what was made, beside it."""
    state = checkpoints.load_checkpoint(training.out, training.identity)
    assert state is not None and state["best"] is not None, "a training that has ended has a checkpoint"
    card = {
        "config": public(training.config.model_dump(mode="json")),
        "recipe": "CLIP4Clip's (docs/training.md)",
        "data": {"digest": training.data, "videos": len(training.samples), "gaps": learnt.gaps},
        "validation": {
            "digest": _digest(measured.samples),
            "videos": len(measured.samples),
            "gaps": measured.gaps,
        },
        "start": training.model.digest,
        "epochs": state["history"],
        "best": state["best"],
        "versions": versions(),
        "files": {"best": checkpoints.BEST, "events": EVENTS},
    }
    Store(str(training.out)).write_json(card, CARD)
    return Trained(training.out, state["best"], card)
