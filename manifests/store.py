"""The store: a folder, or a bucket, in which a file appears whole or not at all."""

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from clip2video_pipe.manifests.faults import point

TEMPORARY = ".tmp"

Keep = Callable[[], bool]


class StoreError(Exception):
    """The store holds something that is not as it was written, or cannot be written to."""


class Damaged(StoreError):
    """A file of the store is not as it was written, and can be made anew once it is out of the way."""

    def __init__(self, store: "Store", *parts: str, why: str) -> None:
        super().__init__(f"{store.path(*parts)} cannot be used: {why}")
        self._store, self._parts, self.why = store, parts, why

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Damaged, why=self.why), (self._store, *self._parts)

    def drop(self) -> None:
        """Delete what is left of it. Raises OSError."""
        self._store.remove(*self._parts)


class Stamp(NamedTuple):
    """What a folder's listing says of a file: who changes the file changes its stamp."""

    size: int  # bytes
    modified: int | None  # nanoseconds since the epoch; None in an object store, where nobody writes into a file


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

    def stamps(self, *folder: str) -> dict[str, Stamp]:
        """Name and stamp of each finished file of a folder; empty where there is no such folder."""
        return {f.base_name: self._stamp(f) for f in self._files(*folder) if not f.base_name.endswith(TEMPORARY)}

    def stamp(self, *parts: str) -> Stamp | None:
        """Of one file; None where there is none."""
        info = self.fs.get_file_info(self.path(*parts))
        return self._stamp(info) if info.is_file else None

    def folders(self, *folder: str) -> list[str]:
        """Names of the folders in a folder, sorted."""
        selector = pafs.FileSelector(self.path(*folder), allow_not_found=True)
        return sorted(f.base_name for f in self.fs.get_file_info(selector) if not f.is_file)

    def leftovers(self, *folder: str) -> dict[str, Stamp]:
        """What writers that were killed left in a folder: name and stamp of each."""
        return {f.base_name: self._stamp(f) for f in self._files(*folder) if f.base_name.endswith(TEMPORARY)}

    def ages(self, *folder: str) -> dict[str, float]:
        """Seconds since each file of a folder was written, those of killed writers among them."""
        now = time.time()
        return {f.base_name: now - f.mtime_ns / 1e9 if f.mtime_ns else 0.0 for f in self._files(*folder)}

    def open(self, *parts: str) -> Any:
        """A file to read from and to seek in. Raises OSError."""
        return self.fs.open_input_file(self.path(*parts))

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

    def remove_folder(self, *folder: str) -> None:
        """Delete a folder, if it is there and empty. Object stores have none."""
        if self.local:
            with contextlib.suppress(OSError):
                Path(self.path(*folder)).rmdir()

    @contextlib.contextmanager
    def writing(self, *parts: str, keep: Keep | None = None) -> Iterator[Any]:
        """A binary file to write to, which takes its name when the block ends well, and else is gone.

        Where a file has that name by then, and `keep` finds that it is as good, that one stays.

        Locally: a temporary file beside it, flushed to the disk, renamed over it. An object store shows an object
        only when all of it is there, but would also show the part of one whose writer failed: so it is sent at once.
        """
        if self.local:
            with self._local("/".join(parts), keep) as sink:
                yield sink
            return
        buffer = pa.BufferOutputStream()
        yield buffer
        point(f"before {'/'.join(parts)}")
        if keep is None or self.stamp(*parts) is None or not keep():
            with self.fs.open_output_stream(self.path(*parts)) as stream:
                stream.write(buffer.getvalue())
        point(f"after {'/'.join(parts)}")

    @contextlib.contextmanager
    def _local(self, name: str, keep: Keep | None) -> Iterator[Any]:
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}{TEMPORARY}")
        try:
            with temporary.open("wb") as sink:
                yield sink
                sink.flush()
                os.fsync(sink.fileno())
            point(f"before {name}")
            _take_name(temporary, target, keep)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        point(f"after {name}")
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _files(self, *folder: str) -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(self.path(*folder), allow_not_found=True)
        return [info for info in self.fs.get_file_info(selector) if info.is_file]

    def _stamp(self, info: pafs.FileInfo) -> Stamp:
        return Stamp(info.size, info.mtime_ns if self.local else None)


def _take_name(temporary: Path, target: Path, keep: Keep | None) -> None:
    """In one step, so that nobody sees a part of it; of two that come at a time the second asks `keep`."""
    if keep is not None:
        try:
            os.link(temporary, target)
        except FileExistsError:
            stays = keep()
        except OSError:  # a file system without links
            stays = target.exists() and keep()
        else:
            stays = True
        if stays:
            temporary.unlink()
            return
    temporary.replace(target)
