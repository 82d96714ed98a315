"""Digests of files' contents, remembered by size and time stamp, so that a cached run opens none of them."""

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from clip2video_pipe.manifests.store import Store

Extent = Literal["sampled", "full"]

BLOCK = 1 << 16
BLOCKS = 16
SETTLED = 2.0  # seconds: a file changed as lately as this may change again within its time stamp's grain
NAME = "fingerprints.parquet"
COLUMNS = ("path", "extent", "size", "modified", "content")


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


class Fingerprints:
    """The store's memory of fingerprints. Losing it costs time, nothing else."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str], tuple[int, int, str]] = {}
        self._changed = False
        if NAME in store.sizes():
            try:
                table = pq.read_table(store.path(NAME), filesystem=store.fs)
                columns = (table[name].to_pylist() for name in COLUMNS)
                self._known = {(p, e): (s, m, c) for p, e, s, m, c in zip(*columns, strict=True)}
            except (OSError, KeyError, pa.ArrowException):
                self._changed = True

    def of(self, paths: Sequence[Path], extent: Extent) -> list[str | OSError]:
        """Fingerprint of each file, or the error that reading it gave."""
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(lambda path: self._one(path, extent), paths))

    def _one(self, path: Path, extent: Extent) -> str | OSError:
        try:
            stat = path.stat()
            key = (str(path.absolute()), extent)
            known = self._known.get(key)
            if known and known[:2] == (stat.st_size, stat.st_mtime_ns):
                return known[2]
            content = fingerprint(path, extent)
        except OSError as error:
            return error
        if time.time() - stat.st_mtime > SETTLED:
            self._known[key] = (stat.st_size, stat.st_mtime_ns, content)
            self._changed = True
        return content

    def save(self) -> None:
        """Write what was learnt, if anything was."""
        if not self._changed:
            return
        rows = [(*key, *value) for key, value in sorted(self._known.items())]
        table = pa.table({name: [row[n] for row in rows] for n, name in enumerate(COLUMNS)})
        with self._store.writing(NAME) as sink:
            pq.write_table(table, sink, compression="zstd")
        self._changed = False
