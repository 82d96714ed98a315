"""The whole run in this process, one unit after the other: for debugging and fast tests."""

from types import TracebackType
from typing import Self

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.schedule import Schedule, Unit
from clip2video_pipe.pipeline.worker import run_unit
from clip2video_pipe.stages.base import Stage


class InlineEngine:
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def run(self, schedule: Schedule, store: Store) -> None:
        ready: set[Stage] = set()
        while not schedule.done:
            unit = schedule.next("actor") or schedule.next("task")
            assert unit is not None, "a schedule that is not done has a unit for an idle engine"
            self._run(unit, schedule, store, ready)

    def _run(self, unit: Unit, schedule: Schedule, store: Store, ready: set[Stage]) -> None:
        stage = unit.job.stage
        if stage not in ready:
            stage.setup()
            ready.add(stage)
        schedule.finish(unit, run_unit(store, stage, unit.items, unit.feed()))
