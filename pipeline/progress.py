"""What a run shows while it goes: bars on a terminal, plain lines elsewhere."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from clip2video_pipe.pipeline.words import several

LINE_EVERY = 5.0  # seconds between plain lines of one stage


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
        self._asked: dict[str, tuple[int, int]] = {}  # of each stage, and how many of those were there
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
        self.hide()

    def hide(self) -> None:
        """Take the bars away; twice does no harm."""
        if self._bars:
            self._bars.stop()

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def kept(self) -> list[str]:
        """A line for each stage that the run had something to do for: how much of it is done, and kept."""
        lines = []
        for name, (asked, done) in self._asked.items():
            if done < asked:
                done += self._stages[name].done if name in self._stages else 0
                lines.append(f"{name}: {done} of {asked} done" + (f", {asked - done} to go" if done < asked else ""))
        return lines

    def event(
        self,
        event: str,
        *,
        stage: str,
        items: int,
        errors: Mapping[str, int] | None = None,
        why: str = "",
        began: float = math.inf,
        stages: Mapping[str, Mapping[str, Any]] | None = None,
        **_: Any,
    ) -> None:
        if event == "planned":
            for name, said in (stages or {}).items():
                self._asked[name] = said["items"], said["there"]
                self._stages.pop(name, None)
        elif event == "queued":
            state = self._stages[stage] = _Stage(items)
            if self._bars:
                state.bar = self._bars.add_task(stage, total=items, rate="", failed="")
        elif event == "finished":
            state = self._stages[stage]
            state.done += items
            state.failed += sum((errors or {}).values())
            state.began = min(state.began, began)
            self._show(stage, state)
        elif event in ("waiting", "damaged", "joined", "gone", "warning"):
            self.say(why)
        elif event == "lost":
            self.say(f"{stage}: lost {several(items, 'item')}, {why}; trying again")

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
