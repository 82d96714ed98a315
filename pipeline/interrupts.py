"""Ctrl-C: the first one stops in order, within a few seconds; a second one leaves at once."""

import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from clip2video_pipe.manifests.addresses import is_remote, shown
from clip2video_pipe.pipeline.config import public
from clip2video_pipe.pipeline.errors import INTERRUPTED

WITHIN = 4.5  # seconds for what stops in order; then it is left as it is, which loses nothing that is done
SIGNALS = (signal.SIGINT, signal.SIGTERM)
PROGRAM = "clip2video-pipe"


class Interrupts:
    """Listens for SIGINT and SIGTERM while it is entered, in the main thread; the first one raises KeyboardInterrupt.

    A thread hears of signals at once, also while the main thread is in the middle of a native call or waits for a
    network: it ends the process `WITHIN` seconds after the first one, or at the second one. `command` is how the user
    would start the same again, but for what may be secret in its addresses: `hides` says whether there was any.
    `last_words` is called before the process ends, by whoever ends it.
    """

    def __init__(self, argv: Sequence[str] | None) -> None:
        words = _words(argv)
        said = [_public(word) for word in words]
        self.command, self.hides = shlex.join(said), said != words
        self.last_words: Callable[[], object] = lambda: None
        self._stays = argv is None  # until the process has ended: something may keep even that waiting
        self._heard = False
        self._process = os.getpid()
        self._said = threading.Lock()
        self._before: dict[int, Any] = {}

    def say_last_words(self) -> None:
        """Call `last_words`, once."""
        if self._said.acquire(blocking=False):
            self.last_words()

    def __enter__(self) -> Self:
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._interrupted) for number in SIGNALS}
        threading.Thread(target=self._listen, name="interrupts", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stays and self._heard:
            return
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._mouth.close()

    def _interrupted(self, number: int, frame: object) -> None:
        if os.getpid() != self._process:
            return  # a copy of this process that is about to become another program
        self._heard = True
        for each in SIGNALS:
            signal.signal(each, lambda *_: None)  # the thread hears the next one, and leaves
        raise KeyboardInterrupt

    def _listen(self) -> None:
        with self._ear as ear:
            if not _next_signal(ear, None):
                return
            _next_signal(ear, WITHIN)
        self.say_last_words()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)


def _next_signal(ear: socket.socket, within: float | None) -> bool:
    """Wait for SIGINT or SIGTERM; False when the time is up, or nobody can send one any more."""
    while select.select([ear], [], [], within)[0]:
        heard = ear.recv(1)
        if not heard:
            return False
        if heard[0] in SIGNALS:
            return True
    return False


def _words(argv: Sequence[str] | None) -> list[str]:
    """The command line as the user could say it again."""
    if argv is not None:
        return [PROGRAM, *argv]
    if Path(sys.argv[0]).name != PROGRAM:
        return sys.orig_argv
    found = shutil.which(PROGRAM)
    known = found is not None and Path(found).resolve() == Path(sys.argv[0]).resolve()
    return [PROGRAM if known else sys.argv[0], *sys.argv[1:]]


def _public(word: str) -> str:
    """A word of the command line: a value, or a `KEY=` and a value, that may be YAML with addresses in it."""
    if "://" not in word:
        return word
    text = re.sub(r"^([\w.-]+=)*", "", word)
    key = word.removesuffix(text)
    if is_remote(text):
        return key + shown(text)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return f"{key}..."
    return word if public(value) == value else key + json.dumps(public(value), ensure_ascii=False, default=str)
