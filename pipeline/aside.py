"""A process that computes aside what needs torch: importing it takes longer than all else that `search` does.

`start` starts it before this process has imported anything, so that it is ready when there is something to compute.
"""

import contextlib
import gc
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # this file is read before anything else is, so it imports nothing that takes long
    import pyarrow as pa

    from clip2video_pipe.stages.base import Stage

MODULE = "clip2video_pipe.pipeline.aside"


class Aside:
    """Such a process, for one question; it ends when this object, used as a context, is left, or with its starter."""

    def __init__(self) -> None:
        # -P: a user's folder may hold a random.py.
        command = [sys.executable, "-P", "-m", MODULE]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603

    def __enter__(self) -> "Aside":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what it never read cannot be flushed
                assert pipe is not None
                pipe.close()
        self._process.wait()

    def ask(self, stages: "Sequence[Stage]", rows: "pa.Table") -> None:
        """Have the rows go through these stages, one after the other. Raises OSError where the process has died."""
        assert self._process.stdin is not None
        try:
            pickle.dump((list(stages), rows), self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._died() from error

    def answer(self) -> "pa.Table":
        """The rows that came out of the last stage. Raises what a stage raised; OSError if the process has died."""
        assert self._process.stdout is not None
        try:
            found = pickle.load(self._process.stdout)  # noqa: S301
        except (EOFError, pickle.UnpicklingError) as error:
            raise self._died() from error
        if isinstance(found, Exception):
            raise found
        return found

    def _died(self) -> OSError:
        return OSError(f"the process that embeds has ended with code {self._process.wait()} before it was done")


class _NoPandas:
    """pyarrow imports pandas, 0.13 s, to see whether a list is one of its series; where there is none it does not."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is left out of a search")


def hurry() -> None:
    """For a process that lives for a second: leave out what only long ones need."""
    gc.disable()  # to look for garbage among what was imported takes a fifth of that
    sys.meta_path.insert(0, _NoPandas)


_started: list[Aside] = []


@contextlib.contextmanager
def started() -> Iterator[None]:
    """Have such a process started already, for whoever calls `aside` inside."""
    with Aside() as early:
        _started.append(early)
        try:
            yield
        finally:
            _started.clear()


def aside() -> Aside:
    """The process that was started already, once; else a new one."""
    return _started.pop() if _started else Aside()


def _serve() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this one hears it too, and ends this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    hurry()
    import clip2video_pipe.models.clip2video
    import clip2video_pipe.models.packed
    import clip2video_pipe.models.weights
    import clip2video_pipe.stages.video_embeddings  # noqa: F401
    from clip2video_pipe.models.text import merges

    merges()
    gc.enable()
    try:
        stages, rows = pickle.load(sys.stdin.buffer)  # noqa: S301
    except EOFError:  # nothing was asked after all
        return
    found: Any
    try:
        for stage in stages:
            stage.setup()
            rows = stage.process(stage.load(rows))
        found = rows
    except Exception as error:
        found = error
    pickle.dump(found, answers)
    answers.flush()
    os._exit(0)  # to take torch down takes a while


if __name__ == "__main__":
    _serve()
