"""Two stages whose items cost nothing to compute: what is left is what carries them."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa

from clip2video_pipe.manifests import keys
from clip2video_pipe.manifests.schemas import FAILED, ITEM, OK
from clip2video_pipe.manifests.shards import Outcome, ShardWriter, failed_table, outcome_table
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.plan import Step
from clip2video_pipe.pipeline.schedule import Job, Listener, Schedule
from clip2video_pipe.pipeline.sharing import Sharing
from clip2video_pipe.pipeline.worker import Feed, Given, Stored
from clip2video_pipe.stages.base import Stage

SHARD_ITEMS = 64


@dataclass(kw_only=True, eq=False)
class MadeUp(Stage):
    """In the place of `frames`: a number an item."""

    name: ClassVar[str] = "made_up"
    version: ClassVar[int] = 1
    lane: ClassVar[Literal["task", "actor"]] = "task"

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([*ITEM, pa.field("number", pa.int64())])

    @property
    def chunk(self) -> int:
        return SHARD_ITEMS

    def process(self, table: pa.Table) -> pa.Table:
        items = table["item"].to_pylist()
        return outcome_table(self.schema, items, [Outcome(OK)] * len(items), {"number": range(len(items))})


@dataclass(kw_only=True, eq=False)
class MadeOfIt(MadeUp):
    """In the place of `video_embeddings`: reads the shards of the first."""

    name: ClassVar[str] = "made_of_it"
    lane: ClassVar[Literal["task", "actor"]] = "actor"


def item_keys(count: int) -> list[str]:
    return [keys.digest(number) for number in range(count)]


def steps(store: Store, items: list[str]) -> tuple[Step, Step]:
    """Both stages over these items, beside what the store has."""
    first = MadeUp()
    second = MadeOfIt(inputs={"made_up": first.identity.key})
    return Step(store, first.identity, items, first), Step(store, second.identity, items, second)


def schedule(store: Store, both: tuple[Step, Step], listener: Listener, sharing: Sharing | None = None) -> Schedule:
    """What is missing of both."""
    first, second = both

    def stored(items: Any) -> Feed:
        places = [first.places[item] for item in items]
        return Stored(first.name, first.identity.key, [(place.shard, place.row) for place in places])

    def given(items: Any) -> Feed:
        return Given(pa.table({"item": items}))

    def record(unit: Any, failure: str, why: str) -> Any:
        stage = unit.job.stage
        with ShardWriter(store, stage.name, stage.identity.key, unit.items, stage.schema) as writer:
            writer.write(failed_table(stage.schema, unit.items, Outcome(FAILED, failure, why)))
        return writer.shard

    make = Job(first.stage, first.missing, first.places, given, completed=first.commit)  # type: ignore[arg-type]
    use = Job(second.stage, second.missing, second.places, stored, make, completed=second.commit)  # type: ignore[arg-type]
    jobs = [job for job in (make, use) if job.missing]
    others = (sharing.find, sharing.start) if sharing else ()
    return Schedule(jobs, SHARD_ITEMS, record, listener, *others)
