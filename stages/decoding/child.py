"""The process that decodes for a worker: `python -m clip2video_pipe.stages.decoding.child HANDLE BYTES PARENT`."""

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

from clip2video_pipe.stages.decoding import Clip, DecodeError, decode_segments, find_decoder

PARENT_DIED = 1  # prctl's PR_SET_PDEATHSIG


def serve(connection: "Connection[Any, Any]") -> None:
    """Answer requests until the other end is closed."""
    connection.send("ready")
    while True:
        try:
            seconds, request = connection.recv()
        except (EOFError, ConnectionError):
            return
        signal.setitimer(signal.ITIMER_REAL, seconds)  # kills, whatever library hangs
        before = time.process_time()
        answer = _answer(request)
        spent = time.process_time() - before
        try:
            connection.send((answer, spent))
        except MemoryError:
            connection.send((_out_of_memory(request), spent))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(request: dict[str, Any]) -> list[Clip | DecodeError] | DecodeError:
    try:
        return decode_segments(**request)
    except DecodeError as error:
        return error
    except MemoryError:
        return _out_of_memory(request)
    except Exception as error:  # no decoder is free of surprises, and one video must not cost the others
        return DecodeError("unreadable", request["path"], f"{type(error).__name__}: {error}")


def _out_of_memory(request: dict[str, Any]) -> DecodeError:
    return DecodeError("out-of-memory", request["path"], "its pictures do not fit in memory (run.decode_memory)")


def _limit(memory: int, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program; this ends with it
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # some systems have no such limit
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DIED, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit()


if __name__ == "__main__":
    handle, memory, parent = (int(argument) for argument in sys.argv[1:])
    find_decoder("av")  # imports it: part of getting ready
    _limit(memory, parent)
    serve(Connection(handle))
