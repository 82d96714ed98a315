"""Published weights, from their address to the cache folder: resumed, verified by sha256, renamed into place last."""

import fcntl
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import NewConnectionError

from clip2video_pipe.models.errors import WeightsError
from clip2video_pipe.models.sources import cached_path, published

TIMEOUT = (10, 30)  # seconds: to connect, and without a byte
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further try; they start again when a try got further
BLOCK = 1 << 16  # of the transfer; what is lost when it breaks off is less than this
PASSING = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)  # worth another try
SHA256 = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")

Report = Callable[[int, int | None], None]  # bytes there, bytes in all where the server says so


class _Broken(Exception):
    """A transfer that stopped early and may go on; what is there is kept."""


def fetch(
    name: str,
    url: str | None = None,
    *,
    report: Report = lambda there, total: None,
    note: Callable[[str], None] = lambda text: None,
    waits: Sequence[float] = WAITS,
) -> tuple[Path, bool]:
    """The path of the published weights `name`, and whether they had to be fetched; safe to run twice.

    `url` takes the place of OpenAI's address; the sha256 is the one in its path, or the name's own. A transfer
    that was broken off goes on where it stopped. Raises WeightsError for an unknown name, without a network,
    if the server refuses or keeps breaking off, and if the bytes are not those asked for.
    """
    source = published(name)
    address = url or source.url
    if not _is_web(address):
        raise WeightsError(f"--from {address!r}: has to be an http or https address")
    in_path = SHA256.search(urlsplit(address).path)
    expected = in_path[0] if in_path else source.sha256
    path = cached_path(name)
    part = path.with_name(f"{path.name}.{expected[:16]}.part")
    try:
        if path.is_file() and sha256_of(path) == expected:
            return path, False
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(part) as file:
            _fill(file, address, path, report, note, waits)
            found = sha256_of(part)
            if found != expected:
                part.unlink()
                raise WeightsError(
                    f"{address}: sent the wrong bytes: sha256 {found}, not {expected}; removed them, try again"
                )
            part.replace(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path, True


def _is_web(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _alone(part: Path) -> Iterator[BinaryIO]:
    """A partial file, open at its end, that no other fetch is writing."""
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WeightsError(f"{part}: another fetch is writing it; wait for it, or stop it") from error
        yield file


def _fill(
    file: BinaryIO, address: str, path: Path, report: Report, note: Callable[[str], None], waits: Sequence[float]
) -> None:
    """Add to a partial file until it is whole."""
    host = urlsplit(address).hostname
    furthest, left, reached = file.tell(), list(waits), False
    while True:
        try:
            _transfer(file, address, report)
            file.flush()
            return
        except _Broken as error:
            why, reached = str(error), True
        except requests.RequestException as error:
            why = _reason(error)
            if not isinstance(error, PASSING):
                raise WeightsError(f"{address}: {why}") from error
            if not reached and _out_of_reach(error):
                raise WeightsError(
                    f"{address}: {host} cannot be reached ({why}); without a network, get the file on another machine "
                    f"and put it at {path}, or set model.clip to its path"
                ) from error
        if file.tell() > furthest:
            furthest, left = file.tell(), list(waits)
        if not left:
            raise WeightsError(f"{address}: keeps breaking off ({why}); the same command goes on where it stopped")
        note(f"{host}: {why}; trying again in {left[0]:g} s")
        time.sleep(left.pop(0))


def _transfer(file: BinaryIO, address: str, report: Report) -> None:
    """One try at the rest of a file. Raises _Broken, requests.RequestException, and WeightsError if it is refused."""
    there = file.tell()
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={there}-"} if there else {})
    with requests.get(address, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416 and _said(answer, r"bytes \*/(\d+)") == there:
            return  # nothing is left to send
        starts_here = answer.status_code == 206 and _said(answer, r"bytes (\d+)-") == there
        if answer.status_code in (200, 206, 416) and not starts_here:
            there = _start_again(file)  # it sends the whole file, or does not know this part of it
            if answer.status_code != 200:
                raise _Broken("the server has another file than what is here a part of")
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            raise _Broken(f"the server says {answer.status_code} {answer.reason}")
        if answer.status_code not in (200, 206):
            raise WeightsError(f"{address}: the server says {answer.status_code} {answer.reason}")
        length = answer.headers.get("Content-Length", "")
        total = there + int(length) if length.isdecimal() else None
        report(there, total)
        for block in answer.iter_content(BLOCK):
            file.write(block)
            there += len(block)
            report(there, total)
        if total is not None and there < total:
            raise _Broken(f"broke off after {there} of {total} bytes")


def _start_again(file: BinaryIO) -> int:
    file.seek(0)
    file.truncate()
    return 0


def _said(answer: requests.Response, pattern: str) -> int | None:
    match = re.match(pattern, answer.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _cause(error: BaseException) -> BaseException:
    """The innermost error: requests wraps urllib3's, which wraps the system's."""
    inner = getattr(error, "reason", None) or next((arg for arg in error.args if isinstance(arg, Exception)), None)
    return _cause(inner) if isinstance(inner, BaseException) else error


def _out_of_reach(error: requests.RequestException) -> bool:
    """Whether no connection was made at all, so that trying again at once is no use."""
    kinds = (requests.exceptions.ProxyError, requests.exceptions.SSLError, requests.ConnectTimeout)
    return isinstance(error, kinds) or isinstance(_cause(error), NewConnectionError)


def _reason(error: requests.RequestException) -> str:
    cause = _cause(error)
    text = str(cause).strip().splitlines()
    return text[0].rpartition(">: ")[2] if text else type(cause).__name__
