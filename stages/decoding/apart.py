"""Decoding in a process of its own: a file that hangs, blows up or kills the decoder loses itself alone."""

import atexit
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

from clip2video_pipe.stages.decoding import Clip, DecodeError
from clip2video_pipe.stages.decoding.failures import Failure

START = 120.0  # seconds that the process may take until it is ready
GRACE = 5.0  # seconds after its own alarm clock should have ended it
TRIES = 2  # of a video that kills it: what was decoded before may be to blame
MODULE = "clip2video_pipe.stages.decoding.child"


@dataclass(frozen=True)
class Limits:
    """What a video may take: seconds of the clock (so many for each segment of it), and bytes of memory."""

    seconds: float
    bytes: int


class Apart:
    """A process that decodes one video after the other, started when there is a first one and again when it dies.

    It ends when this process does, whatever becomes of it: it reads from a pipe, and has an alarm clock.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection[Any, Any] | None = None
        self._bytes = 0
        self.cpu = 0.0  # core-seconds of all its processes, but for those of answers that never came

    def decode(
        self, limits: Limits, path: str, segments: Sequence[tuple[float | None, float | None]], **how: Any
    ) -> list[Clip | DecodeError]:
        """`decode_segments(path, segments=segments, **how)`.

        Raises DecodeError as it does, and for `timeout`, `out-of-memory` and `crashed`.
        """
        seconds = limits.seconds * len(segments)
        for _ in range(TRIES):
            self._start(limits.bytes)
            assert self._connection is not None
            try:
                self._connection.send((seconds, {"path": path, "segments": segments, **how}))
                if self._connection.poll(seconds + GRACE):
                    answer: list[Clip | DecodeError] | DecodeError
                    answer, cpu = self._connection.recv()
                    self.cpu += cpu
                    if isinstance(answer, DecodeError):
                        if answer.failure == "out-of-memory":
                            self.close()  # what is left of it may be in pieces
                        raise answer
                    return answer
            except (EOFError, ConnectionError):
                pass
            failure, why = self._end(path, seconds)
            if failure != "crashed":
                break
        raise DecodeError(failure, path, why)

    def close(self) -> None:
        """End the process, if there is one."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _start(self, memory: int) -> None:
        if self._process is not None and self._process.poll() is None and self._bytes == memory:
            return
        self.close()
        ours, theirs = Pipe()
        with theirs:
            handle = theirs.fileno()
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, a module of ours, and numbers
                # -P: a user's folder may hold a random.py.
                [sys.executable, "-P", "-m", MODULE, str(handle), str(memory), str(os.getpid())],
                pass_fds=[handle],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"},
            )
        self._connection, self._bytes = ours, memory
        try:
            if ours.poll(START) and ours.recv() == "ready":
                return
        except (EOFError, ConnectionError):
            pass
        self.close()
        raise RuntimeError(
            f"the process that decodes does not start; 'python -m {MODULE}' says why, or give run.decode_memory more"
        )

    def _end(self, path: str, seconds: float) -> tuple[Failure, str]:
        """What it died of, or is killed for now."""
        assert self._process is not None
        try:
            code = self._process.wait(timeout=GRACE if self._process.poll() is None else 0)
        except subprocess.TimeoutExpired:
            code = -signal.SIGALRM
        self.close()
        if code == -signal.SIGALRM:
            return "timeout", f"it was not decoded within {seconds:g} s (run.decode_timeout)"
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        hint = ": perhaps the machine has no memory left" if code == -signal.SIGKILL else ""
        return "crashed", f"it killed the process that decodes ({name}) {TRIES} times{hint}"


_APART = Apart()
atexit.register(_APART.close)


def cpu_seconds_apart() -> float:
    """Core-seconds that were used for `decode_apart` so far."""
    return _APART.cpu


def most_seconds(limits: Limits) -> float:
    """That `decode_apart` takes for one segment, whatever is in it."""
    return TRIES * (limits.seconds + GRACE + START)


def decode_apart(
    limits: Limits, path: str, segments: Sequence[tuple[float | None, float | None]], **how: Any
) -> list[Clip | DecodeError]:
    """`Apart.decode` in the one such process that a worker keeps: starting it takes as long as some videos do."""
    return _APART.decode(limits, path, segments, **how)
