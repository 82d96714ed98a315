"""What runs in a cluster's workers: a function for stages that keep nothing, an actor for those that do."""

import signal
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.worker import Done, Feed, run_unit
from clip2video_pipe.stages.base import Stage


class Actor:
    """Keeps the stages of a schedule ready for their next units."""

    def __init__(self) -> None:
        self._life = uuid.uuid4().hex
        self._turn = threading.Lock()
        self._stages: dict[str, Stage] = {}

    def ready(self, stages: Sequence[Stage]) -> str:
        """Set these stages up, and let go of others: a gallery or a model is large.

        The answer tells this process from the one that Ray starts in its place when it dies.
        """
        wanted = {stage.identity.key for stage in stages}
        with self._turn:
            self._stages = {key: stage for key, stage in self._stages.items() if key in wanted}
        for stage in stages:
            self._set_up(stage)
        return self._life

    def run(self, store: Store, stage: Stage, items: Sequence[str], feed: Feed, threads: int) -> Done:
        stage = self._set_up(stage)
        with self._turn:
            stage.use_threads(threads)
        return run_unit(store, stage, items, feed, self._take_turn)

    def _set_up(self, stage: Stage) -> Stage:
        key = stage.identity.key
        with self._turn:
            if key not in self._stages:
                stage.setup()
                self._stages[key] = stage
            return self._stages[key]

    @contextmanager
    def _take_turn(self, seconds: float) -> Iterator[None]:
        with self._turn, alarm(seconds):
            yield


def answer() -> None:
    """Tells that a machine can run tasks."""


def run_task(store: Store, stage: Stage, items: Sequence[str], feed: Feed, threads: int) -> Done:
    stage.setup()
    stage.use_threads(threads)
    return run_unit(store, stage, items, feed, alarm)


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """The kernel ends this process when the block takes longer: whatever library hangs cannot keep it."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
