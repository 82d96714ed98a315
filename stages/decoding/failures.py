"""What can be wrong with a video."""

from typing import Literal

Failure = Literal[
    "missing", "unreadable", "no-video-stream", "no-frames", "damaged", "timeout", "out-of-memory", "crashed"
]

LONGEST = 500  # characters of a message; a row of a table holds it


class DecodeError(Exception):
    """A video that gives no pictures: its `failure` class, and one line that names the file."""

    def __init__(self, failure: Failure, path: str, why: str) -> None:
        name = path if len(path) <= LONGEST // 2 else f"...{path[-LONGEST // 2 :]}"
        line = " ".join(f"{name!r}: {why}".split())
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}...")
        self.failure = failure
        self._arguments = (failure, path, why)

    def __reduce__(self) -> tuple[type["DecodeError"], tuple[Failure, str, str]]:
        return type(self), self._arguments  # so that it can leave a worker process
