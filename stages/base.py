"""What a stage is: a small class that turns one table into another. Scheduling is elsewhere."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import pyarrow as pa

from clip2video_pipe.manifests.manifest import StageIdentity

PATIENCE = 3600.0


def unkeyed(default: Any) -> Any:
    """A stage's setting that does not change its numbers and so is not in its key."""
    return field(default=default, metadata={"keyed": False})


@dataclass(kw_only=True, eq=False)
class Stage(ABC):
    """A stage: its settings are its fields, all of them in its key but those that are `unkeyed`.

    It is sent to workers before `setup`, and must be safe to run twice: for the same rows it gives the same rows.
    """

    name: ClassVar[str]
    version: ClassVar[int]  # raised when the behaviour changes
    lane: ClassVar[Literal["task", "actor"]]  # an actor keeps what `setup` made; a task has nothing to keep
    blameless: ClassVar[bool] = False  # whether no item can be at fault when workers die
    bulk: ClassVar[int] = 1  # so many times `run.shard_items` go into a shard: more for rows that cost little

    inputs: Mapping[str, str] = field(default_factory=dict, metadata={"keyed": False})  # keys of the stages it reads
    seconds: float = unkeyed(PATIENCE)  # that `process` may take for one table, whatever is in it

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """Of the rows it writes."""

    @property
    @abstractmethod
    def chunk(self) -> int:
        """How many rows `process` takes at a time; they become one row group."""

    @property
    def wants_gpu(self) -> bool:
        """Whether it computes on a GPU where there is one."""
        return False

    @property
    def device_kind(self) -> Literal["cpu", "gpu"]:
        """What it computes on, once it is set up."""
        return "cpu"

    @property
    def weights(self) -> str | None:
        """Digest of the weights it uses."""
        return None

    def setup(self) -> None:
        """Make ready what all rows need; once a worker."""
        return

    def use_threads(self, count: int) -> None:
        """How many cores it may keep busy from now on."""
        return

    def patience(self, rows: int) -> float:
        """Seconds after which `process` of so many rows hangs, by all that is known."""
        return self.seconds

    def cpu_seconds(self) -> float:
        """Core-seconds that this process, and those that compute for it, have used so far."""
        return time.process_time()

    def load(self, table: pa.Table) -> Any:
        """What `process` takes, of the rows read; other rows may be processed in the meantime."""
        return table

    @abstractmethod
    def process(self, loaded: Any) -> pa.Table:
        """Rows for the items loaded, in their order. What is wrong with one item makes a failed row of it."""

    def params(self) -> dict[str, Any]:
        """What changes its numbers, as JSON can say it."""
        keyed = (f.name for f in fields(self) if f.metadata.get("keyed", True))
        return {name: getattr(self, name) for name in keyed}

    @property
    def identity(self) -> StageIdentity:
        return StageIdentity(self.name, self.version, self.params(), self.inputs, self.weights)
