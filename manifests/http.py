"""Files of web servers, in ranges where the server can; else fetched once, whole."""

import email.utils
import re
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import requests
from urllib3.exceptions import HTTPError

from clip2video_pipe.manifests.addresses import Url
from clip2video_pipe.manifests.remote import SETTLED
from clip2video_pipe.manifests.retries import Changed, TryAgain, retried

TIMEOUT = (10, 30)  # seconds: to connect, and without a byte
TRANSFER = 1 << 16
PASSING = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)

_of_thread = threading.local()


class HttpSource:
    """A file behind an `http(s)://` address: every answer has to be of the same file as the first.

    Raises OSError: FileNotFoundError, PermissionError, LostConnection, Changed.
    """

    def __init__(self, url: Url) -> None:
        self._url = url
        self._whole: BinaryIO | None = None
        self._ranged = False
        self._size: int | None = None
        retried(self._begin, url.host)

    def _begin(self) -> None:
        with _asked(self._url, 0, 1) as answer:
            self._stamp = _stamp(answer)
            self.mark = _mark(answer)
            if answer.status_code == 206 and "Content-Encoding" not in answer.headers:
                self._size = _said(answer, r"bytes 0-0/(\d+)")
                self._ranged = self._size is not None
                next(answer.iter_content(1), None)  # to its end, so that the connection is used again
            elif answer.status_code == 200:
                self._size = _length(answer)
            elif answer.status_code == 416 and _said(answer, r"bytes \*/(\d+)") == 0:
                self._size, self._ranged = 0, True
            elif answer.status_code == 416:
                raise OSError("the server has no such bytes as the file's first")

    @property
    def size(self) -> int:
        """In bytes. A server without ranges need not know it before all is fetched."""
        if self._size is None:
            self._fetched()
        assert self._size is not None
        return self._size

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`, all of them."""
        if start >= stop:
            return b""
        got = bytearray()

        def attempt() -> None:
            at = start + len(got)
            try:
                with _asked(self._url, at, stop) as answer:
                    self._same(answer)
                    if answer.status_code == 200:  # this server of several knows no ranges
                        self._ranged = False
                        return
                    if _said(answer, r"bytes (\d+)-") != at:
                        raise OSError("the server sends other bytes than those that it was asked for")
                    for block in answer.iter_content(TRANSFER):
                        got.extend(block)
                        if len(got) >= stop - start:
                            return
            except TryAgain as error:
                error.further = start + len(got) > at
                raise
            raise TryAgain(f"broke off after {start + len(got)} bytes", further=start + len(got) > at)

        if self._ranged:
            retried(attempt, self._url.host)
        if self._ranged:
            return bytes(got[: stop - start])
        file = self._fetched()
        file.seek(start)
        return file.read(stop - start)

    def _fetched(self) -> BinaryIO:
        """All of the file, in a temporary one without a name."""
        if self._whole is None:
            file = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with this
            try:
                size = retried(lambda: self._fill(file), self._url.host)
                if self._size not in (None, size):
                    raise Changed("it changed its size while it was read")
            except BaseException:
                file.close()
                raise
            self._whole, self._size = file, size
        return self._whole

    def _fill(self, file: BinaryIO) -> int:
        file.seek(0)
        file.truncate()
        with _asked(self._url) as answer:
            self._same(answer)
            for block in answer.iter_content(TRANSFER):
                file.write(block)
            if file.tell() < (_length(answer) or 0):
                raise TryAgain(f"broke off after {file.tell()} bytes")
        return file.tell()

    def _same(self, answer: requests.Response) -> None:
        for before, now in zip(self._stamp, _stamp(answer), strict=True):
            if before and now and before != now:
                raise Changed("it changed while it was read")
        total = _said(answer, r"bytes (?:\d+-\d+|\*)/(\d+)")
        if answer.status_code == 416 or total not in (None, self._size):
            raise Changed("it changed its size while it was read")

    def check(self) -> None:
        """Nothing: each answer was looked at."""

    def close(self) -> None:
        if self._whole is not None:
            self._whole.close()


@contextmanager
def _asked(url: Url, start: int | None = None, stop: int = 0) -> Iterator[requests.Response]:
    """The answer to one request, for a range or for all: of status 200, 206 or 416. Raises TryAgain or OSError."""
    headers = {"Accept-Encoding": "identity"} | ({} if start is None else {"Range": f"bytes={start}-{stop - 1}"})
    try:
        with _session().get(url.full, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            _refuse(answer)
            yield answer
    except PASSING as error:  # what requests says of it has the whole address in it
        cause = _cause(error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise OSError(_reason(error, url)) from None
        raise TryAgain(_reason(error, url), answered=False) from None
    except (requests.RequestException, HTTPError, UnicodeError) as error:
        raise OSError(_reason(error, url)) from None


def _refuse(answer: requests.Response) -> None:
    status = answer.status_code
    said = f"the server says {status} {answer.reason or ''}".rstrip()
    if status in (404, 410):
        raise FileNotFoundError(said)
    if status in (401, 403):
        raise PermissionError(said)
    if status in (408, 425, 429) or status >= 500:
        raise TryAgain(said, after=_retry_after(answer))
    if status not in (200, 206, 416):
        raise OSError(said)


def _session() -> requests.Session:
    """One a thread: connections are kept from file to file."""
    if not hasattr(_of_thread, "session"):
        _of_thread.session = requests.Session()
    session: requests.Session = _of_thread.session
    return session


def _stamp(answer: requests.Response) -> tuple[str | None, str | None]:
    return answer.headers.get("ETag"), answer.headers.get("Last-Modified")


def _mark(answer: requests.Response) -> str | None:
    """What is another when the file is; None where the server says nothing that can be relied on."""
    total = answer.headers.get("Content-Range", "*/").partition("/")[2] or answer.headers.get("Content-Length", "")
    etag, modified = _stamp(answer)
    if etag:
        return f"{etag} {total}"
    changed = _time(modified)
    if changed is None or (_time(answer.headers.get("Date")) or time.time()) - changed <= SETTLED:
        return None
    return f"{modified} {total}"


def _length(answer: requests.Response) -> int | None:
    """Of all of the file, where an answer that is not packed says so."""
    said = answer.headers.get("Content-Length", "")
    return int(said) if said.isdecimal() and "Content-Encoding" not in answer.headers else None


def _time(said: str | None) -> float | None:
    """Seconds since the epoch of a date in a header."""
    try:
        return email.utils.parsedate_to_datetime(said or "").timestamp()
    except ValueError:
        return None


def _retry_after(answer: requests.Response) -> float:
    said = answer.headers.get("Retry-After", "")
    if said.isdecimal():
        return float(said)
    until = _time(said)
    return 0.0 if until is None else max(0.0, until - time.time())


def _said(answer: requests.Response, pattern: str) -> int | None:
    match = re.match(pattern, answer.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _cause(error: BaseException) -> BaseException:
    """The innermost error: requests wraps urllib3's, which wraps the system's."""
    inner = getattr(error, "reason", None) or next((arg for arg in error.args if isinstance(arg, Exception)), None)
    return _cause(inner) if isinstance(inner, BaseException) else error


def _reason(error: Exception, url: Url) -> str:
    cause = _cause(error)
    text = (str(cause).strip().splitlines() or [type(cause).__name__])[0].rpartition(">: ")[2]
    return text.replace(url.full, str(url)).replace(url.query or url.full, "...")
