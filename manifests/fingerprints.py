"""Digests of files' contents, remembered by size and time stamp, so that a cached run opens none of them.

Of a remote file they are those of the same bytes on this machine; it is remembered by what its server marks it with.
"""

import hashlib
import os
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from io import RawIOBase
from stat import S_ISDIR, S_ISREG
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from clip2video_pipe.manifests.addresses import Location, Url
from clip2video_pipe.manifests.remote import SETTLED, open_remote
from clip2video_pipe.manifests.retries import LostConnection
from clip2video_pipe.manifests.store import Store

Extent = Literal["sampled", "full"]

BLOCK = 1 << 16
BLOCKS = 16
NAME = "fingerprints.parquet"
COLUMNS = ("path", "extent", "size", "modified", "changed", "content")


Mark = tuple[int, int, int]


def fingerprint(path: Location, extent: Extent) -> str:
    """Digest of a file's content: `full` reads all, `sampled` its size and 16 blocks of 64 KiB spread over it.

    Files of up to 1 MiB are read whole either way. Raises OSError.
    """
    if isinstance(path, Url):
        with open_remote(path) as remote:
            said = _digest(remote, remote.size, remote.at, extent)
            remote.check()
            return said
    with path.open("rb", buffering=0) as file:

        def at(start: int, size: int) -> bytes:
            file.seek(start)
            return file.read(size)

        return _digest(file, os.fstat(file.fileno()).st_size, at, extent)


def _digest(file: RawIOBase, size: int, at: Callable[[int, int], bytes], extent: Extent) -> str:
    if extent == "full" or size <= BLOCK * BLOCKS:
        return f"{size}-{hashlib.file_digest(file, 'sha256').hexdigest()}"
    found = hashlib.sha256()
    for block in range(BLOCKS):
        found.update(at(block * (size - BLOCK) // (BLOCKS - 1), BLOCK))
    return f"{size}-sampled-{found.hexdigest()}"


class FileMemory:
    """What was read out of files, by their paths, sizes and time stamps. Losing it costs time, nothing else.

    Of remote files by their addresses, without secrets, and their marks; one without a mark is read each time.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._known: dict[tuple[bytes, str], tuple[int, int, int, str]] = {}
        self._changed = False
        try:
            data = store.read(name)
            if data is not None:
                table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
                columns = (table[name].to_pylist() for name in COLUMNS)
                self._known = {(path, what): tuple(said) for path, what, *said in zip(*columns, strict=True)}
        except LostConnection:
            raise
        except (OSError, KeyError, pa.ArrowException):
            self._changed = True

    def of(self, paths: Sequence[Location], what: str, read: Callable[[Location], str]) -> list[str | OSError]:
        """What `read` says of each file, as far as that is not known, or the error that it gave."""
        pool = ThreadPoolExecutor(16)
        try:
            found = {path: self._one(path, what, read, pool) for path in dict.fromkeys(paths)}
            said = {path: f.result() if isinstance(f, Future) else f for path, f in found.items()}
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupt does not wait for what has not begun
        return [said[path] for path in paths]

    def _one(
        self, path: Location, what: str, read: Callable[[Location], str], pool: ThreadPoolExecutor
    ) -> str | OSError | Future[str | OSError]:
        if isinstance(path, Url):
            return pool.submit(self._remote, path, what, read)
        try:
            stat = path.stat()
        except (OSError, ValueError) as error:
            return error if isinstance(error, OSError) else OSError(str(error))
        if not S_ISREG(stat.st_mode):  # a pipe would be waited for, a device read without end
            return OSError("it is a folder" if S_ISDIR(stat.st_mode) else "it is not a regular file")
        key = (os.fsencode(path.absolute()), what)
        # A copy may bring size and time stamp along; the time of the last change it cannot.
        mark = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        known = self._known.get(key)
        return known[3] if known and known[:3] == mark else pool.submit(self._read, path, read, key, mark)

    def _remote(self, url: Url, what: str, read: Callable[[Location], str]) -> str | OSError:
        key = (url.hashed().encode("utf-8", "surrogatepass"), what)
        try:
            with open_remote(url) as file:
                mark = None if file.mark is None else _as_mark(file.mark)
            known = self._known.get(key)
            if known and known[:3] == mark:
                return known[3]
            said = read(url)
        except OSError as error:
            return error
        if mark is not None:
            self._learn(key, mark, said)
        return said

    def _read(
        self, path: Location, read: Callable[[Location], str], key: tuple[bytes, str], mark: Mark
    ) -> str | OSError:
        try:
            said = read(path)
        except OSError as error:
            return error
        if time.time() - max(mark[1:]) / 1e9 > SETTLED:
            self._learn(key, mark, said)
        return said

    def _learn(self, key: tuple[bytes, str], mark: Mark, said: str) -> None:
        self._known[key] = (*mark, said)
        self._changed = True

    def save(self) -> None:
        """Write what was learnt, if anything was and it can be written."""
        if not self._changed:
            return
        rows = [(*key, *value) for key, value in sorted(self._known.items())]
        table = pa.table({name: [row[n] for row in rows] for n, name in enumerate(COLUMNS)})
        with suppress(OSError), self._store.writing(self._name) as sink:
            pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        self._changed = False


def _as_mark(text: str) -> Mark:
    """A remote file's mark in the columns that hold a local one's size and time stamps."""
    size, modified, changed = struct.unpack(">3q", hashlib.sha256(text.encode("utf-8", "replace")).digest()[:24])
    return size, modified, changed


class Fingerprints:
    """The store's memory of fingerprints."""

    def __init__(self, store: Store) -> None:
        self._memory = FileMemory(store, NAME)

    def of(self, paths: Sequence[Location], extent: Extent) -> list[str | OSError]:
        """Fingerprint of each file, or the error that reading it gave."""
        return self._memory.of(paths, extent, lambda path: fingerprint(path, extent))

    def save(self) -> None:
        """Write what was learnt."""
        self._memory.save()
