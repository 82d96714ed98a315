"""Stages that cost nothing, to test what carries them."""

import os
import time
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pyarrow as pa
import pytest

from clip2video_pipe.manifests.schemas import FAILED, ITEM, OK
from clip2video_pipe.manifests.shards import Outcome, ShardWriter, failed_table, outcome_table
from clip2video_pipe.pipeline.engines.inline import InlineEngine
from clip2video_pipe.pipeline.plan import Step
from clip2video_pipe.pipeline.schedule import Job, Schedule
from clip2video_pipe.pipeline.worker import Given, Stored
from clip2video_pipe.stages.base import Stage, unkeyed


@dataclass(kw_only=True, eq=False)
class Doubling(Stage):
    """Doubles the text of each item: its key, or what an earlier stage made of it."""

    name: ClassVar[str] = "doubling"
    version: ClassVar[int] = 1
    lane: ClassVar[Literal["task", "actor"]] = "task"

    times: int = 2
    batch: int = unkeyed(3)
    pause: float = unkeyed(0.0)  # seconds
    fails: bool = unkeyed(False)
    dies_at_setup: bool = unkeyed(False)
    on_gpu: bool = unkeyed(False)  # it then says which GPU it has been given
    poison: str = unkeyed("")  # the item that kills its worker
    seen: list[str] = field(default_factory=list, metadata={"keyed": False})

    @property
    def schema(self):
        return pa.schema([*ITEM, pa.field("text", pa.string())])

    @property
    def chunk(self):
        return self.batch

    @property
    def wants_gpu(self):
        return self.on_gpu

    def setup(self):
        if self.dies_at_setup:
            os._exit(1)

    def process(self, table):
        items = table["item"].to_pylist()
        self.seen += items
        time.sleep(self.pause)
        if self.fails:
            raise ZeroDivisionError
        if self.poison in items:
            os._exit(1)
        texts = table["text" if "text" in table.column_names else "item"].to_pylist()
        columns = {"text": [text and text * self.times for text in texts]}
        if self.on_gpu:
            columns = {"text": [os.environ["CUDA_VISIBLE_DEVICES"]] * len(items)}
        outcomes = [Outcome(OK) if text else Outcome(FAILED, "no-text") for text in texts]
        return outcome_table(self.schema, items, outcomes, columns)


@dataclass(kw_only=True, eq=False)
class Second(Doubling):
    name: ClassVar[str] = "second"
    lane: ClassVar[Literal["task", "actor"]] = "actor"


def given(items):
    return Given(pa.table({"item": items}))


def job(step, source=None):
    def stored(items):
        places = [source.places[item] for item in items]
        return Stored(source.name, source.identity.key, [(place.shard, place.row) for place in places])

    return Job(step.stage, step.missing, step.places, stored if source else given, completed=step.commit)


def chain(store, items, first=None, second=None):
    """Two steps, the second reading what the first makes, and their jobs; those done already have none."""
    first, second = first or Doubling(), second or Second()
    second.inputs = {"doubling": first.identity.key}
    steps = [Step(store, stage.identity, items, stage) for stage in (first, second)]
    jobs = [job(steps[0]), job(steps[1], steps[0])]
    jobs[1].source = jobs[0] if jobs[0].missing else None
    return steps, jobs


def recorder(store):
    def record(unit, failure, why):
        stage = unit.job.stage
        with ShardWriter(store, stage.name, stage.identity.key, unit.items, stage.schema) as writer:
            writer.write(failed_table(stage.schema, unit.items, Outcome(FAILED, failure, why)))
        return writer.shard

    return record


def compute(store, items, shard_items=4, batch=3):
    """Run one stage inline to its manifest; gives it, and the items that were computed."""
    stage = Doubling(batch=batch)
    step = Step(store, stage.identity, items, stage)
    InlineEngine().run(Schedule([job(step)], shard_items, recorder(store)), store)
    return step.commit(), stage.seen


@pytest.fixture(scope="session")
def pipeline():
    """The helpers of this file, as pytest cannot import it by name."""
    import sys

    return sys.modules[__name__]
