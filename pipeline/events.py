"""What a run writes down while it goes: its events, and a sign of life for those who look from elsewhere."""

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from clip2video_pipe.manifests.store import Store, StoreError
from clip2video_pipe.pipeline.errors import first_line

RUNS = "runs"
EVENTS = "events.jsonl"
PART = re.compile(r"events-\d{5,}\.jsonl")  # of an object store, where nothing can be appended to
ALIVE = "alive.json"
LAST = ("done", "stopped")  # the events that a run ends with

BEAT = 5.0  # seconds between two signs of life in a folder
FAR_BEAT = 15.0  # in an object store, where the new events go with them
PART_BYTES = 256 << 10  # a part that is smaller is sent again with more in it: so a day of events is a hundred objects
SILENT = 60.0  # seconds without a sign of life that could be written, before it is said
PATIENCE = 5.0  # seconds that the end of a run waits for a sign of life that is under way
READERS = 16

Event = dict[str, Any]


class EventLog:
    """A run's events, one JSON object a line, each with its `time`; and its sign of life. Used as a context.

    In a folder each event is on the disk when `add` returns; in an object store within FAR_BEAT seconds. Raises
    StoreError where one cannot be written; a sign of life that cannot be written is told to `say`.
    """

    def __init__(self, store: Store, run: Sequence[str], say: Callable[[str], object] = lambda line: None) -> None:
        self._store = store
        self._run = tuple(run)
        self._say = say
        self._every = BEAT if store.local else FAR_BEAT
        self._began = self._heard = time.time()
        self._told = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="sign of life", daemon=True)
        self._file = None
        self._torn = False  # whether the file ends in a part of a line
        self._part = 1  # of an object store: the number of the one in work, its lines, and how many of them are sent
        self._lines: list[bytes] = []
        self._sent = 0
        self._sending = threading.Lock()
        if store.local:
            path = Path(store.path(*run, EVENTS))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)

    def add(self, event: str, **said: Any) -> None:
        line = json.dumps({"time": round(time.time(), 4), "event": event, **said}).encode() + b"\n"
        if self._file:
            self._append(line)
        else:
            self._lines.append(line)

    def events(self) -> list[Event]:
        """All that were added, read back: a long run has too many to hold."""
        if self._file is None:
            self._send()
        return read_events(self._store, self._run)

    def __enter__(self) -> Self:
        self._show_life()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        last: Event = {"event": "done"} if error is None else {"event": "stopped", "why": type(error).__name__}
        try:
            self.add(**last)
            if self._file is None:
                if self._thread.is_alive():  # what it is sending may come after this, and must not take its place
                    self._part, self._lines = self._part + 1, self._lines[self._sent :]
                    self._sent, self._sending = 0, threading.Lock()
                self._send()
        except Exception:
            if error is None:
                raise
            # It would hide what the run ended with, and that mostly is the same full disk or lost network.
        finally:
            if self._file:
                self._file.close()
            with contextlib.suppress(Exception):
                self._store.remove(*self._run, ALIVE)

    def _append(self, line: bytes) -> None:
        assert self._file is not None
        left = memoryview(b"\n" + line if self._torn else line)
        try:
            while left:
                self._torn = True
                left = left[self._file.write(left) :]
            self._torn = False
        except OSError as error:
            raise StoreError(
                f"{self._store.path(*self._run, EVENTS)} cannot be written to: {error.strerror or error}; "
                "what is done is kept, and the same command goes on"
            ) from error

    def _beat(self) -> None:
        while not self._stop.wait(self._every):
            self._show_life()

    def _show_life(self) -> None:
        try:
            self._store.write_json(self._alive(), *self._run, ALIVE)
            if self._file is None:
                self._send()
        except Exception as error:  # whatever it is: a run that goes well does not end for it
            if time.time() - self._heard > SILENT and not self._told and not self._stop.is_set():
                self._told = True
                self._say(
                    f"the run's sign of life cannot be written ({first_line(error)}); "
                    "until it can, 'status' on another machine takes the run for killed"
                )
        else:
            self._heard, self._told = time.time(), False

    def _alive(self) -> dict[str, Any]:
        return {
            "time": time.time(),
            "every": self._every,
            "since": self._began,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "machine": machine(),
            "started": process_start(os.getpid()),
        }

    def _send(self) -> None:
        """The events that an object store does not have yet. A part that has grown large enough is left behind."""
        with self._sending:
            lines, part = self._lines, self._part
            until = len(lines)
            if until == self._sent:
                return
            data = b"".join(lines[:until])
            self._store.write(data, *self._run, f"events-{part:05d}.jsonl")
            if lines is not self._lines:
                return  # the run has ended, and did not wait for this
            self._sent = until
            if len(data) >= PART_BYTES:
                self._part, self._sent = part + 1, 0
                del lines[:until]


def read_events(store: Store, run: Sequence[str]) -> list[Event]:
    """The events of a run, as far as they are there: also while it goes, or where it was killed as it wrote."""
    names = sorted(name for name in store.stamps(*run) if name == EVENTS or PART.fullmatch(name))
    if len(names) == 1:
        files: Iterable[bytes | None] = [store.read(*run, names[0])]
    else:
        with ThreadPoolExecutor(READERS) as pool:
            files = list(pool.map(lambda name: store.read(*run, name), names))
    # A part that was sent in haste, at the end, may say again what another one says.
    lines = dict.fromkeys(line for file in files for line in (file or b"").split(b"\n"))
    return [event for event in map(_parse, lines) if event]


def last_event(store: Store, run: Sequence[str]) -> Event | None:
    """A run's last event, without reading all of them."""
    names = sorted(name for name in store.stamps(*run) if name == EVENTS or PART.fullmatch(name))
    if not names:
        return None
    with store.open(*run, names[-1]) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 16384))
        lines: list[bytes] = file.read().split(b"\n")
    return next((event for event in map(_parse, reversed(lines)) if event), None)


def machine() -> str:
    """What tells this machine from others of its name, and this container from others of the machine."""
    return " ".join([socket.gethostname(), *_namespace()])


@cache
def _namespace() -> tuple[str, ...]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return boot, str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not a Linux
        return ()


def process_start(pid: int) -> str | None:
    """When a process was started, as its kernel counts; None where that cannot be known, or it has ended.

    Of two processes that had the same number it is not the same.
    """
    try:
        said = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = said.rpartition(")")[2].split()  # its name, in brackets, may hold anything
    return None if fields[0] in "ZX" else fields[19]


def _parse(line: bytes) -> Event | None:
    """An event; None for the half line of a run that was killed while it wrote."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None
