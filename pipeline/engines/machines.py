"""The machines of a cluster, and what each has in hand."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clip2video_pipe.pipeline.engines.shares import Share
from clip2video_pipe.pipeline.schedule import Unit

REACH = 2.0  # seconds for a machine to answer


@dataclass(eq=False)
class Slot:
    """An actor, or all the tasks of a machine, and the units in hand there."""

    handle: Any = None  # the actor; None for tasks
    probe: Any = None  # a question under way: until it is answered there is nothing new to do; None when it is
    life: str | None = None  # what the actor answered last
    units: dict[Any, Unit] = field(default_factory=dict)  # by reference to the result
    silent_since: float | None = None  # when there first was no answer, on the monotonic clock
    unsure: list[tuple[Unit, Exception]] = field(
        default_factory=list
    )  # lost, or only not heard of: an answer will tell
    row: set[int] = field(default_factory=set)  # units lost since one was finished

    @property
    def calls(self) -> list[Any]:
        """References of all that is under way there."""
        return [*self.units, *([self.probe] if self.probe else [])]


@dataclass(eq=False)
class Node:
    """A machine of the cluster, and what it has in hand."""

    said: dict[str, Any]  # what Ray says of it
    share: Share
    seen: bool  # whether this process is in its network; else Ray alone tells whether it is there
    slots: list[Slot] = field(default_factory=list)
    tasks: Slot = field(default_factory=Slot)

    @property
    def id(self) -> str:
        return str(self.said["NodeID"])

    @property
    def name(self) -> str:
        return str(self.said["NodeManagerHostname"])

    @property
    def door(self) -> tuple[str, int]:
        """Where Ray listens on it."""
        return self.said["NodeManagerAddress"], self.said["NodeManagerPort"]

    @property
    def is_there(self) -> bool:
        """Whether it answers; Ray takes a while to tell."""
        if not self.seen:
            return True
        try:
            socket.create_connection(self.door, timeout=REACH).close()
        except OSError:
            return False
        return True

    @property
    def places(self) -> list[Slot]:
        """Where it has units in hand."""
        return [self.tasks, *self.slots]


def count(said: Mapping[str, Any], resource: str) -> int:
    """How much of a resource a machine has, by what Ray says of it."""
    return int(said["Resources"].get(resource, 0))
