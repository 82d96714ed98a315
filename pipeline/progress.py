"""What a run tells while it goes: `events.jsonl` always, bars on a terminal, plain lines elsewhere."""

import json
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from clip2video_pipe.manifests.store import Store

EVENTS = "events.jsonl"
LINE_EVERY = 5.0  # seconds between plain lines of one stage


class EventLog:
    """A run's events, one JSON object a line, each with its `time`. On an object store they are sent at the end."""

    def __init__(self, store: Store, run: tuple[str, ...]) -> None:
        self._store = store
        self._parts = (*run, EVENTS)
        self._lines: list[str] = []
        self._file = None
        if store.local:
            path = Path(store.path(*self._parts))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8", buffering=1)
        self.events: list[dict[str, Any]] = []

    def add(self, event: str, **said: Any) -> None:
        record = {"time": round(time.time(), 4), "event": event, **said}
        self.events.append(record)
        line = json.dumps(record) + "\n"
        if self._file:
            self._file.write(line)
        else:
            self._lines.append(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.add("done")
        else:
            self.add("stopped", why=type(error).__name__)
        if self._file:
            self._file.close()
        else:
            # What went wrong is said, and not that this could not be written either.
            with suppress(OSError) if error else nullcontext():
                self._store.write("".join(self._lines).encode(), *self._parts)


@dataclass
class _Stage:
    total: int
    began: float = math.inf  # when its first unit began, seconds since the epoch
    done: int = 0
    failed: int = 0
    told: float = 0.0
    bar: TaskID | None = None

    @property
    def rate(self) -> float:
        return self.done / max(1e-9, time.time() - self.began)


class Reporter:
    """Shows how far each stage is: rate, time to go and failures. A context; listens to a schedule's events."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stages: dict[str, _Stage] = {}
        self._bars: Progress | None = None
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description:<18}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[failed]}"),
                console=console,
            )

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def event(
        self,
        event: str,
        *,
        stage: str,
        items: int,
        errors: Mapping[str, int] | None = None,
        why: str = "",
        began: float = math.inf,
        **_: Any,
    ) -> None:
        if event == "queued":
            state = self._stages[stage] = _Stage(items)
            if self._bars:
                state.bar = self._bars.add_task(stage, total=items, rate="", failed="")
        elif event == "finished":
            state = self._stages[stage]
            state.done += items
            state.failed += sum((errors or {}).values())
            state.began = min(state.began, began)
            self._show(stage, state)
        elif event in ("waiting", "damaged"):
            self.say(why)
        elif event == "lost":
            self.say(f"{stage}: lost {items} items, {why}; trying again")

    def _show(self, stage: str, state: _Stage) -> None:
        rate = f"{state.rate:.1f}/s"
        failed = f"{state.failed} failed" if state.failed else ""
        if self._bars and state.bar is not None:
            self._bars.update(state.bar, completed=state.done, rate=rate, failed=failed)
            return
        now = time.monotonic()
        if state.done == state.total or now - state.told >= LINE_EVERY:
            state.told = now
            left = (state.total - state.done) / max(1e-9, state.rate)
            to_go = "" if state.done == state.total else f", {left:.0f} s to go"
            self.say(f"{stage}: {state.done}/{state.total}, {rate}{to_go}{failed and ', ' + failed}")
