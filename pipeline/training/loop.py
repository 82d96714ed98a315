"""What each worker of a training does, from its first step, or the one that it was stopped at, to the last."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from clip2video_pipe.manifests.store import Damaged, Store
from clip2video_pipe.models.clip2video import Clip2Video
from clip2video_pipe.models.starting import starting_model
from clip2video_pipe.models.text import Tokenizer
from clip2video_pipe.pipeline.errors import EngineError, RequestError
from clip2video_pipe.pipeline.training import checkpoints
from clip2video_pipe.pipeline.training.data import Epochs, Positions, Reader, Sample, ahead, share
from clip2video_pipe.pipeline.training.recipe import bound_scale, freeze, make_optimizer, schedule
from clip2video_pipe.pipeline.training.settings import TrainConfig
from clip2video_pipe.pipeline.training.step import Objective, Part, Towers, go_back
from clip2video_pipe.pipeline.training.validation import validate
from clip2video_pipe.stages.model import ModelSpec
from clip2video_pipe.stages.sampling import draw

Tell = Callable[..., None]  # called as tell(event name, ...), by the first worker

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Training:
    """All that a worker has to know. Small but for `samples`: it is sent to workers."""

    config: TrainConfig
    model: ModelSpec
    samples: Sequence[Sample]
    stage: str  # that made the pictures
    key: str
    rows: dict[str, int]  # of each shard
    window: int  # groups that are read at a time
    keep: int  # shards that fit in memory
    out: Path
    identity: str  # of config and start: what a checkpoint has to be of
    data: str  # digest of the pairs


@dataclass
class Worker:
    """One of the processes that train; `rank` counts from 0."""

    rank: int
    count: int
    device: torch.device


def work(training: Training, worker: Worker, tell: Tell) -> None:
    """Train to the end. The first worker writes what is made, and validates."""
    settings = training.config.train
    torch.use_deterministic_algorithms(worker.device.type == "cpu")
    torch.manual_seed(settings.seed)
    spec = training.model
    model = starting_model(spec.size, spec.variant, clip=spec.clip, checkpoint=spec.checkpoint, seed=settings.seed).to(
        worker.device
    )
    freeze(model, settings.freeze)
    model.recompute(settings.recompute)
    try:
        Run(training, worker, tell, model).to_the_end()
    except Damaged as error:
        error.drop()
        raise EngineError(f"{error}; it is removed, and the same command makes it anew and goes on") from error


class Run:
    """A worker's model, its optimizer, and where they are."""

    def __init__(self, training: Training, worker: Worker, tell: Tell, model: Clip2Video) -> None:
        settings = training.config.train
        self.training, self.worker, self.tell, self.model, self.settings = training, worker, tell, model, settings
        self.epochs = Epochs(training.samples, settings.batch, worker.count, settings.seed, training.window)
        self.frames = training.config.sampling.max_frames
        self.reader = Reader(
            Store(training.config.store),
            training.stage,
            training.key,
            training.rows,
            training.model.size.image_size,
            training.keep,
        )
        self.tokenizer = Tokenizer(training.model.size.vocab_size)
        self.optimizer = make_optimizer(model, settings.lr, settings.clip_lr, settings.weight_decay)
        self.schedule = schedule(self.optimizer, settings.epochs * len(self.epochs), settings.warm_up)
        self.scaler = torch.amp.GradScaler(worker.device.type, enabled=settings.precision == "float16")
        self.objective = Objective(
            training.config.model.center_weight, training.model.size.embed_dim, settings.negatives == "global"
        )
        towers = Towers(model, self.frames)
        self.towers: Towers | DistributedDataParallel = towers
        if worker.count > 1:
            on = [worker.device.index] if worker.device.type == "cuda" else None
            # With one frame a video there are no differences, so that what makes tokens of them does not learn.
            self.towers = DistributedDataParallel(towers, device_ids=on, find_unused_parameters=self.frames == 1)
        self.epoch, self.batch = 0, 0  # the next one
        self.best: dict[str, Any] | None = None
        self.history: list[dict[str, Any]] = []
        self.saved = time.monotonic()
        self.losses: list[float] = []  # of this epoch's batches
        self.spent = 0.0  # seconds that this epoch took before it was gone on with
        self.vectors: dict[int, np.ndarray] = {}  # of samples, where the image tower does not learn

    def to_the_end(self) -> None:
        self._go_on()
        while self.epoch < self.settings.epochs:
            self.began = time.monotonic()
            batches = self.epochs.batches(self.epoch)
            captions = self.epochs.captions(self.epoch)
            for parts, sizes in ahead(self._parts(batches[self.batch :], captions)):
                self.losses.append(self._step(parts, sizes))
                self.batch += 1
                self._said(self.losses[-1], len(batches))
                if time.monotonic() - self.saved > self.settings.save_every and self.batch < len(batches):
                    self._save()
            self._ended()
        self.tell("trained", best=self.best)

    def _parts(self, batches: Sequence[Positions], captions: Positions) -> Iterator[tuple[list[Part], list[int]]]:
        """This worker's pairs of each batch, in parts that fit, and how many pairs each worker has."""
        for batch in batches:
            mine, sizes = share(batch, self.worker.rank, self.worker.count)
            at_once = self.settings.micro_batch or len(mine)
            yield [self._part(mine[start : start + at_once], captions) for start in range(0, len(mine), at_once)], sizes

    def _part(self, positions: Positions, captions: Positions) -> Part:
        samples = [(int(n), self.training.samples[n]) for n in positions]
        texts = [sample.captions[captions[n]] for n, sample in samples]
        ids, mask = self.tokenizer.batch(texts, self.training.config.model.max_words)
        drawn = self.training.config.sampling.policy == "jitter"
        if "image" in self.settings.freeze and not drawn:
            pictures, counts = self._frozen(samples)
        else:
            clips = [self.reader.pictures(sample) for _, sample in samples]
            if drawn:
                clips = [
                    clip[draw(len(clip), self.frames, self.epochs.jitter(self.epoch, n))]
                    for (n, _), clip in zip(samples, clips, strict=True)
                ]
            pictures, counts = torch.from_numpy(np.concatenate(clips)), [len(clip) for clip in clips]
        on = self.worker.device
        return Part(pictures.to(on), counts, torch.from_numpy(ids).to(on), torch.from_numpy(mask).to(on))

    def _frozen(self, samples: Sequence[tuple[int, Sample]]) -> tuple[torch.Tensor, list[int]]:
        """float [n, L, D]: CLIP's vectors of the samples' frames, computed when they are first asked for."""
        tower = self.model.clip.visual
        counts, rows = [], []
        with torch.no_grad():
            for n, sample in samples:
                if n not in self.vectors:
                    pictures = torch.from_numpy(self.reader.pictures(sample)).to(self.worker.device)
                    self.vectors[n] = tower.embed(pictures).float().cpu().numpy()
                counts.append(len(self.vectors[n]))
            zero = tower.zero_picture().float().cpu().numpy() if min(counts) < self.frames else None
        for n, _ in samples:
            found = self.vectors[n]
            if len(found) < self.frames:
                assert zero is not None
                found = np.concatenate([found, np.repeat(zero[None], self.frames - len(found), axis=0)])
            rows.append(found)
        return torch.from_numpy(np.stack(rows)), counts

    def _step(self, parts: Sequence[Part], sizes: Sequence[int]) -> float:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        dtype = DTYPES[self.settings.precision]
        with torch.autocast(self.worker.device.type, dtype, enabled=dtype != torch.float32):
            whole = max(sizes) <= (self.settings.micro_batch or max(sizes))
            loss = go_back(self.towers, parts, self.objective, sizes, self.scaler, whole=whole)
        self.scaler.unscale_(self.optimizer)
        learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(learning, self.settings.clip_norm)
        # With float16 a step whose gradient overflows is left out, and the scale is lowered.
        if not np.isfinite(loss) or not (self.scaler.is_enabled() or norm.isfinite()):
            raise EngineError(
                f"training: the loss is {loss} and its gradient's norm {norm.item()} in epoch {self.epoch + 1}, batch "
                f"{self.batch + 1}; start again in another train.out with a lower train.lr (or train.precision: "
                "float32), for the last checkpoint goes on to the same end"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        bound_scale(self.model)
        return loss

    def _said(self, loss: float, batches: int) -> None:
        rates = {f"lr{n}": group["lr"] for n, group in enumerate(self.optimizer.param_groups)}
        at = {"epoch": self.epoch, "batch": self.batch, "batches": batches}
        self.tell("step", **at, loss=round(loss, 6), scale=round(self.model.scale, 4), **rates)

    def _ended(self) -> None:
        """An epoch: its model is written and measured, if it is its turn, and the best is kept."""
        done = self.epoch + 1
        measured = done % self.settings.validate_every == 0 or done == self.settings.epochs
        if measured:
            self._save()  # what was learnt is kept, whatever happens as it is measured
            self._measure()
        self.epoch, self.batch, self.losses, self.spent = done, 0, [], 0.0
        self.began = time.monotonic()
        self._save()
        if measured and self.worker.count > 1:
            dist.barrier()

    def _measure(self) -> None:
        if self.worker.rank == 0:
            out, epoch = self.training.out, self.epoch
            seconds = self.spent + time.monotonic() - self.began
            state = self.model.state_dict()
            checkpoints.save_model(out / checkpoints.epoch_file(epoch), state)
            began = time.monotonic()
            metrics = validate(self.training, out / checkpoints.epoch_file(epoch))
            said = {
                "epoch": epoch,
                "loss": float(np.mean(self.losses)),
                "seconds": round(seconds, 1),
                "validation_seconds": round(time.monotonic() - began, 1),
                **metrics,
            }
            self.history.append(said)
            if self.best is None or _rsum(said) > _rsum(self.best):
                self.best = said
                model = json.dumps(self.training.config.model.model_dump())
                checkpoints.save_model(out / checkpoints.BEST, state, {"epoch": str(epoch), "model": model})
            self.tell("epoch", **said, best=self.best["epoch"])

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.worker.rank:
            return
        state = {
            "identity": self.training.identity,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "batch": self.batch,
            "losses": self.losses,
            "spent": self.spent + time.monotonic() - self.began,
            "best": self.best,
            "history": self.history,
            "random": torch.get_rng_state(),
        }
        checkpoints.save_checkpoint(self.training.out, state)

    def _go_on(self) -> None:
        out, identity = self.training.out, self.training.identity
        here = checkpoints.begun(out)
        state = checkpoints.load_checkpoint(out, identity) if here == identity else None
        found: list[Any] = [(here, state and (state["epoch"], state["batch"]))]
        if self.worker.count > 1:
            found *= self.worker.count
            dist.all_gather_object(found, found[0])
        if here != identity or len(set(found)) > 1:  # all workers raise, or none
            raise RequestError(f"train.out: {str(out)!r} is not the same folder on all machines")
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.losses, self.spent = state["losses"], state["spent"]
        self.best, self.history = state["best"], state["history"]
        self.tell("resumed", epoch=self.epoch, batch=self.batch)


def _rsum(said: dict[str, Any]) -> float:
    """What makes an epoch the best: R@1 + R@5 + R@10 of both directions."""
    return sum(float(said[direction]["rsum"]) for direction in ("text_to_video", "video_to_text"))
