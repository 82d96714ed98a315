"""The store: a folder, or a bucket, in which a file appears whole or not at all."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

TEMPORARY = ".tmp"


class StoreError(Exception):
    """The store holds something that is not as it was written, or cannot be written to."""


class Store:
    """Files below `url`: a local path, or any address that `pyarrow.fs` knows (`s3://bucket/prefix`)."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            if "://" in url:
                self.fs, self.base = pafs.FileSystem.from_uri(url)
            else:
                self.fs, self.base = pafs.LocalFileSystem(), str(Path(url).absolute())
                self.fs.get_file_info(self.base)  # names that cannot be said to a file system end here
        except (pa.ArrowException, OSError, ValueError) as error:
            raise StoreError(f"store {url!r} cannot be opened: {error}") from error
        self.local = isinstance(self.fs, pafs.LocalFileSystem)

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        # Workers get the place, not this process's connection; a relative path means the driver's folder.
        return Store, (self.base if self.local else self.url,)

    def path(self, *parts: str) -> str:
        """Path of a file as `self.fs` wants it; on a local store, one to show to people."""
        return "/".join((self.base, *parts))

    def sizes(self, *folder: str) -> dict[str, int]:
        """Name and size in bytes of each finished file of a folder; empty where there is no such folder."""
        selector = pafs.FileSelector(self.path(*folder), allow_not_found=True)
        found = self.fs.get_file_info(selector)
        return {f.base_name: f.size for f in found if f.is_file and not f.base_name.endswith(TEMPORARY)}

    def folders(self, *folder: str) -> list[str]:
        """Names of the folders in a folder, sorted."""
        selector = pafs.FileSelector(self.path(*folder), allow_not_found=True)
        return sorted(f.base_name for f in self.fs.get_file_info(selector) if not f.is_file)

    def read(self, *parts: str) -> bytes | None:
        """Bytes of a file; None where there is none."""
        try:
            with self.fs.open_input_stream(self.path(*parts)) as stream:
                data: bytes = stream.read()
                return data
        except FileNotFoundError:
            return None

    def read_json(self, *parts: str) -> Any:
        """JSON of a file; None where there is none, or where what is there is not JSON."""
        data = self.read(*parts)
        try:
            return None if data is None else json.loads(data)
        except ValueError:
            return None

    def write(self, data: bytes, *parts: str) -> None:
        with self.writing(*parts) as sink:
            sink.write(data)

    def write_json(self, value: Any, *parts: str) -> None:
        self.write(json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8", "replace") + b"\n", *parts)

    def remove(self, *parts: str) -> None:
        """Delete a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.delete_file(self.path(*parts))

    @contextlib.contextmanager
    def writing(self, *parts: str) -> Iterator[Any]:
        """A binary file to write to, which takes its name when the block ends well, and else is gone.

        Locally: a temporary file beside it, flushed to the disk, renamed over it. An object store shows an object
        only when all of it is there, but would also show the part of one whose writer failed: so it is sent at once.
        """
        if self.local:
            with self._local(Path(self.path(*parts))) as sink:
                yield sink
            return
        buffer = pa.BufferOutputStream()
        yield buffer
        with self.fs.open_output_stream(self.path(*parts)) as stream:
            stream.write(buffer.getvalue())

    @contextlib.contextmanager
    def _local(self, target: Path) -> Iterator[Any]:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}{TEMPORARY}")
        try:
            with temporary.open("wb") as sink:
                yield sink
                sink.flush()
                os.fsync(sink.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
