"""How a training goes, told as it goes: to `events.jsonl` and TensorBoard, and in lines for people."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

EVENTS = "events.jsonl"
BOARD = "tensorboard"
LINE_EVERY = 10.0  # seconds
LOOK_EVERY = 0.5
DIRECTIONS = ("text_to_video", "video_to_text")


class Record:
    """What the first worker writes down; a context. Each event also goes to `lines`, where there are some."""

    def __init__(self, out: Path, lines: "Lines | None" = None) -> None:
        self._out, self._lines = out, lines
        self._step = 0

    def __enter__(self) -> Self:
        from tensorboardX import SummaryWriter

        self._out.mkdir(parents=True, exist_ok=True)
        self._file = (self._out / EVENTS).open("a", encoding="utf-8", buffering=1)
        self._board = SummaryWriter(str(self._out / BOARD))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()

    def __call__(self, event: str, **said: Any) -> None:
        self._file.write(json.dumps({"time": round(time.time(), 3), "event": event, **said}) + "\n")
        if event == "step":
            self._step = said["epoch"] * said["batches"] + said["batch"]
            for name in ("loss", "scale", *(name for name in said if name.startswith("lr"))):
                self._board.add_scalar(f"train/{name}", said[name], self._step)
        elif event == "epoch":
            for direction in DIRECTIONS:
                for name, value in said[direction].items():
                    self._board.add_scalar(f"validation/{direction}/{name}", value, self._step)
            self._board.flush()
        if self._lines:
            self._lines(event, **said)


class Lines:
    """Says events to people, at most a step each LINE_EVERY seconds."""

    def __init__(self, epochs: int, say: Callable[[str], object]) -> None:
        self._epochs, self._say = epochs, say
        self._said = 0.0
        self._first: tuple[float, int] | None = None  # when the first step that was heard of ended, and its number

    def __call__(self, event: str, **said: Any) -> None:
        match event:
            case "step":
                self._step(said)
            case "epoch":
                self._say(_measured(said, self._epochs))
            case "resumed":
                self._say(f"goes on after epoch {said['epoch']}, batch {said['batch']}")

    def _step(self, said: dict[str, Any]) -> None:
        number, now = said["epoch"] * said["batches"] + said["batch"], time.monotonic()
        if self._first is None:
            self._first = now, number
        if now - self._said < LINE_EVERY:
            return
        self._said = now
        began, first = self._first
        left = ""
        if number > first:
            left = f", {_time((now - began) / (number - first) * (self._epochs * said['batches'] - number))} to go"
        at = f"epoch {said['epoch'] + 1}/{self._epochs}, batch {said['batch']}/{said['batches']}"
        self._say(f"{at}: loss {said['loss']:.3f}{left}")


class Following:
    """Gives `lines` the events that a worker elsewhere writes to this folder from now on; a context."""

    def __init__(self, out: Path, lines: Lines) -> None:
        self._path, self._lines = out / EVENTS, lines
        self._from = self._path.stat().st_size if self._path.exists() else 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="events of the training", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        last = False
        while not last:
            last = self._stop.wait(LOOK_EVERY)  # and once more, for what came in the meantime
            if not self._path.exists():
                continue
            with self._path.open("rb") as file:
                file.seek(self._from)
                whole, end, _ = file.read().rpartition(b"\n")
            self._from += len(whole) + len(end)
            for line in whole.splitlines():
                said = json.loads(line)
                self._lines(said.pop("event"), **said)


def _measured(said: dict[str, Any], epochs: int) -> str:
    best = ", the best so far" if said["best"] == said["epoch"] else ""
    figures = []
    for direction in DIRECTIONS:
        recalls = " / ".join(f"{said[direction][f'R@{k}']:.1f}" for k in (1, 5, 10))
        figures.append(f"{direction.replace('_', ' ')} {recalls}")
    return f"epoch {said['epoch'] + 1}/{epochs}: loss {said['loss']:.3f}, R@1/5/10 {', '.join(figures)}{best}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
