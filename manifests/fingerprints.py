"""Digests of files' contents, remembered by size and time stamp, so that a cached run opens none of them."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from clip2video_pipe.manifests.store import Store

Extent = Literal["sampled", "full"]

BLOCK = 1 << 16
BLOCKS = 16
SETTLED = 2.0  # seconds: a file changed as lately as this may change again within its time stamp's grain
NAME = "fingerprints.parquet"
COLUMNS = ("path", "extent", "size", "modified", "changed", "content")


def fingerprint(path: Path, extent: Extent) -> str:
    """Digest of a file's content: `full` reads all, `sampled` its size and 16 blocks of 64 KiB spread over it.

    Files of up to 1 MiB are read whole either way. Raises OSError.
    """
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if extent == "full" or size <= BLOCK * BLOCKS:
            return f"{size}-{hashlib.file_digest(file, 'sha256').hexdigest()}"
        return f"{size}-sampled-{_sampled(file, size)}"


def _sampled(file: BinaryIO, size: int) -> str:
    found = hashlib.sha256()
    for block in range(BLOCKS):
        file.seek(block * (size - BLOCK) // (BLOCKS - 1))
        found.update(file.read(BLOCK))
    return found.hexdigest()


class FileMemory:
    """What was read out of files, by their paths, sizes and time stamps. Losing it costs time, nothing else."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._known: dict[tuple[bytes, str], tuple[int, int, int, str]] = {}
        self._changed = False
        if name in store.sizes():
            try:
                table = pq.read_table(store.path(name), filesystem=store.fs)
                columns = (table[name].to_pylist() for name in COLUMNS)
                self._known = {(path, what): tuple(said) for path, what, *said in zip(*columns, strict=True)}
            except (OSError, KeyError, pa.ArrowException):
                self._changed = True

    def of(self, paths: Sequence[Path], what: str, read: Callable[[Path], str]) -> list[str | OSError]:
        """What `read` says of each file, as far as that is not known, or the error that it gave."""
        with ThreadPoolExecutor(16) as pool:
            found = {path: self._one(path, what, read, pool) for path in dict.fromkeys(paths)}
        said = {path: f.result() if isinstance(f, Future) else f for path, f in found.items()}
        return [said[path] for path in paths]

    def _one(
        self, path: Path, what: str, read: Callable[[Path], str], pool: ThreadPoolExecutor
    ) -> str | OSError | Future[str | OSError]:
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

    def _read(
        self, path: Path, read: Callable[[Path], str], key: tuple[bytes, str], mark: tuple[int, int, int]
    ) -> str | OSError:
        try:
            said = read(path)
        except OSError as error:
            return error
        if time.time() - max(mark[1:]) / 1e9 > SETTLED:
            self._known[key] = (*mark, said)
            self._changed = True
        return said

    def save(self) -> None:
        """Write what was learnt, if anything was and it can be written."""
        if not self._changed:
            return
        rows = [(*key, *value) for key, value in sorted(self._known.items())]
        table = pa.table({name: [row[n] for row in rows] for n, name in enumerate(COLUMNS)})
        with suppress(OSError), self._store.writing(self._name) as sink:
            pq.write_table(table, sink, compression="zstd")
        self._changed = False


class Fingerprints:
    """The store's memory of fingerprints."""

    def __init__(self, store: Store) -> None:
        self._memory = FileMemory(store, NAME)

    def of(self, paths: Sequence[Path], extent: Extent) -> list[str | OSError]:
        """Fingerprint of each file, or the error that reading it gave."""
        return self._memory.of(paths, extent, lambda path: fingerprint(path, extent))

    def save(self) -> None:
        """Write what was learnt."""
        self._memory.save()
