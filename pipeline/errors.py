"""Errors that a user can mend, and the exit codes."""

DONE = 0
FAULT = 1  # ours
BAD_REQUEST = 2
TOO_MANY_FAILURES = 3
INTERRUPTED = 130


class TooManyFailures(Exception):
    """More videos failed than run.max_failure_rate allows, and nothing is made of the others: one line."""


class EngineError(Exception):
    """The engine cannot do its work, and no item is to blame: one line."""


class RequestError(Exception):
    """What was asked for cannot be: one line with the thing, the value and the way out."""


def first_line(error: BaseException) -> str:
    """Of what an error says; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
