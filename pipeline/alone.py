"""One process at a time at what two would spoil."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from clip2video_pipe.pipeline.errors import RequestError


@contextlib.contextmanager
def alone(lock: Path, otherwise: str) -> Iterator[None]:
    """Hold the file `lock`, made where it is not there; it is let go of when this process ends, however it does.

    Raises RequestError, which says `otherwise`, where another process has it. A file system without locks has none.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RequestError(otherwise) from error
        except OSError:
            pass
        yield
