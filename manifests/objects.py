"""Files of object stores, by way of `pyarrow.fs`."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from clip2video_pipe.manifests.addresses import Url
from clip2video_pipe.manifests.remote import SETTLED
from clip2video_pipe.manifests.retries import Changed, TryAgain, retried

# pyarrow tells these apart in words only.
REFUSED = re.compile(r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|HTTP status 40[13]|PERMISSION_DENIED|Permission den")
SILENT = re.compile(r"NETWORK_CONNECTION|curlCode|Couldn't|resolve", re.IGNORECASE)
ABSENT = re.compile(r"NO_SUCH_(BUCKET|KEY)|RESOURCE_NOT_FOUND|HTTP status 404|not found|does not exist", re.IGNORECASE)

T = TypeVar("T")


class ObjectSource:
    """A file behind an `s3://` or `gs://` address.

    Raises OSError: FileNotFoundError, PermissionError, LostConnection, Changed.
    """

    def __init__(self, url: Url) -> None:
        self._url = url
        self._fs = self._tried(lambda: filesystem(_bucket(url)))
        self._path = f"{url.host}/{url.path}".rstrip("/")
        self._info = self._look()
        self.size = int(self._info.size)
        changed = self._info.mtime_ns
        settled = changed is not None and time.time() - changed / 1e9 > SETTLED
        self.mark = f"{self.size} {changed}" if settled else None

    @cached_property
    def _file(self) -> Any:
        return self._tried(lambda: self._fs.open_input_file(self._path))

    def _look(self) -> pafs.FileInfo:
        info = self._tried(lambda: self._fs.get_file_info(self._path))
        if info.type == pafs.FileType.NotFound:
            raise FileNotFoundError("there is no such object")
        if info.type != pafs.FileType.File:
            raise OSError("it is a folder")
        return info

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`, all of them."""
        file = self._file
        data: bytes = self._tried(lambda: file.read_at(stop - start, start))
        if len(data) < stop - start:
            raise Changed("it became shorter while it was read")
        return data

    def check(self) -> None:
        """Raises Changed if the object is another by now: pyarrow cannot ask for bytes of the one it opened only."""
        info = self._look()
        if (info.size, info.mtime_ns) != (self._info.size, self._info.mtime_ns):
            raise Changed("it changed while it was read")

    def close(self) -> None:
        if "_file" in self.__dict__:
            self._file.close()

    def _tried(self, attempt: Callable[[], T]) -> T:
        def one() -> T:
            with _said(self._url):
                return attempt()

        return retried(one, self._url.host)


def list_objects(url: Url) -> list[tuple[str, Url]]:
    """Every object below a prefix by its path from there, sorted. Raises OSError; NotADirectoryError for an object."""
    base = f"{url.host}/{url.path}".rstrip("/")

    def attempt() -> list[pafs.FileInfo]:
        with _said(url):
            fs = filesystem(_bucket(url))
            if fs.get_file_info(base).type == pafs.FileType.File:
                raise NotADirectoryError("it is a file, not a folder")
            found: list[pafs.FileInfo] = fs.get_file_info(pafs.FileSelector(base, recursive=True))
            return found

    found = sorted(info.path for info in retried(attempt, url.host) if info.is_file)
    return [(path[len(base) + 1 :], url.at(path.partition("/")[2])) for path in found]


@cache
def filesystem(bucket: str) -> pafs.FileSystem:
    """Of a bucket, given as an address without a path: connecting may take a request, so it is done once."""
    return pafs.FileSystem.from_uri(bucket)[0]


def _bucket(url: Url) -> str:
    bucket = url.at("").full
    if url.scheme == "gs" and "retry_limit_seconds" not in url.query:  # else it tries for 15 minutes, each time
        bucket += f"{'&' if url.query else '?'}retry_limit_seconds=30"
    return bucket


@contextmanager
def _said(url: Url) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError):
        raise
    except (OSError, pa.ArrowException, ValueError) as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0].replace(url.full, str(url))
        text = text.replace(_bucket(url), f"{url.scheme}://{url.host}")
        if isinstance(error, pa.ArrowNotImplementedError | ValueError):
            raise OSError(text) from None
        if REFUSED.search(text):
            raise PermissionError(text) from None
        if ABSENT.search(text):
            raise FileNotFoundError(text) from None
        raise TryAgain(text, answered=not SILENT.search(text)) from None
