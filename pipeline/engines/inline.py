"""The whole run in this process, one unit after the other: for debugging and fast tests."""

import os
from copy import copy
from types import TracebackType
from typing import Self

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.schedule import Schedule
from clip2video_pipe.pipeline.worker import run_unit


class InlineEngine:
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def run(self, schedule: Schedule, store: Store) -> None:
        # Copies are set up, so that what they hold goes when they are done.
        stages = {job: copy(job.stage) for job in schedule.jobs}
        for stage in stages.values():
            stage.setup()
            if stage.lane == "task":
                stage.use_threads(os.cpu_count() or 1)  # nothing else runs
        while left := schedule.left:
            unit = schedule.next("actor") or schedule.next("task")
            if unit is None:  # what another run has finished may have fed those that were asked first
                assert schedule.left < left, "a schedule that is not done has a unit for an idle engine"
                continue
            schedule.finish(unit, run_unit(store, stages[unit.job], unit.items, unit.feed()))
