"""Engines: they carry units of work to workers. Only `ray_engine` imports Ray, and only when there is work."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Protocol, Self

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.engines.shipping import code_is_there
from clip2video_pipe.pipeline.schedule import Schedule


class Engine(Protocol):
    """Runs schedules until they are done; a context, so that what it started is stopped."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(self, schedule: Schedule, store: Store) -> None:
        """Carry every unit to a worker. Raises what a stage raised."""


@contextmanager
def workers(name: str, address: str, ship_code: bool = False) -> Iterator[Callable[[Schedule, Store], None]]:
    """A function that runs a schedule on the engine of this name, which is started when there is first work."""
    with ExitStack() as stack:
        started: list[Engine] = []

        def run(schedule: Schedule, store: Store) -> None:
            if schedule.done:
                return
            if not started:
                started.append(stack.enter_context(_make_engine(name, address, ship_code)))
            with code_is_there():
                started[0].run(schedule, store)

        yield run


def _make_engine(name: str, address: str, ship_code: bool) -> Engine:
    if name == "inline":
        from clip2video_pipe.pipeline.engines.inline import InlineEngine

        return InlineEngine()
    from clip2video_pipe.pipeline.engines.ray_engine import RayEngine

    return RayEngine(address, ship_code)
