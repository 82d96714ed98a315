"""Trying again, later each time, what a network may have spoilt."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further try, half as much more or less; anew when a try got further
LONGEST = 30.0  # seconds that a server may ask us to wait
SILENT = 60.0  # seconds for which a host that gave no answer, however often it was asked, is asked but once

T = TypeVar("T")

_silent: dict[str, float] = {}  # until when, by host


class LostConnection(OSError):
    """A remote file that was not to be had in all tries. It says nothing about what is in the file."""


class Changed(OSError):
    """A remote file that became another while it was read."""


class Rejected(OSError):
    """A request for a remote file that the server will not do, however often it is asked."""


class TryAgain(Exception):
    """A try that failed and may go well the next time.

    `after`: seconds that the server wants to be left alone. `answered`: whether there was a server at all. `further`:
    whether it got further than the one before.
    """

    def __init__(self, why: str, *, after: float = 0.0, answered: bool = True, further: bool = False) -> None:
        super().__init__(why)
        self.after = after
        self.answered = answered
        self.further = further


def retried(attempt: Callable[[], T], host: str) -> T:
    """What `attempt` gives as soon as it does not raise TryAgain. Raises LostConnection when the tries are used up."""
    waits = list(WAITS) if _silent.get(host, 0.0) <= time.monotonic() else []
    tries = 0
    while True:
        try:
            found = attempt()
        except TryAgain as error:
            tries += 1
            if error.further:
                waits = list(WAITS)
            if not waits:
                if not error.answered:
                    _silent[host] = time.monotonic() + SILENT
                times = f"{tries} times" if tries > 1 else "once"
                raise LostConnection(f"the connection was lost, tried {times}: {error}") from None
            time.sleep(max(waits.pop(0) * random.uniform(0.5, 1.5), min(error.after, LONGEST)))
        else:
            _silent.pop(host, None)
            return found
