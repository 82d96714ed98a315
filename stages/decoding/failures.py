"""What can be wrong with a video."""

from typing import Literal

from clip2video_pipe.manifests.addresses import shown

Failure = Literal[
    "missing", "unreadable", "no-video-stream", "no-frames", "damaged", "timeout", "out-of-memory", "crashed"
]

# Of the machine at that time, or of the run's own limits.
OF_THE_MOMENT = frozenset(["missing", "timeout", "out-of-memory"])

LONGEST = 500  # characters of a message; a row of a table holds it


class DecodeError(Exception):
    """A video that gives no pictures: its `failure` class, and one line that names the file, nothing secret in it.

    `passing`: whether it was of the moment, and not of what is in the file. Those of OF_THE_MOMENT always are.
    """

    def __init__(self, failure: Failure, path: str, why: str, passing: bool = False) -> None:
        path = shown(path)
        name = path if len(path) <= LONGEST // 2 else f"...{path[-LONGEST // 2 :]}"
        line = " ".join(f"{name!r}: {why}".split())
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}...")
        self.failure = failure
        self.passing = passing or failure in OF_THE_MOMENT
        self._arguments = (failure, path, why, passing)

    def __reduce__(self) -> tuple[type["DecodeError"], tuple[Failure, str, str, bool]]:
        return type(self), self._arguments  # so that it can leave a worker process
