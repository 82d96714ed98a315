"""The store: a folder, or a bucket, in which a file appears whole or not at all."""

import contextlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from clip2video_pipe.manifests.addresses import Url, is_remote, shown
from clip2video_pipe.manifests.faults import point
from clip2video_pipe.manifests.remote import RemoteFile
from clip2video_pipe.manifests.retries import Changed, LostConnection, Rejected

if TYPE_CHECKING:
    from clip2video_pipe.manifests.buckets import Bucket

TEMPORARY = ".tmp"

Keep = Callable[[], bool]
Took = Callable[["Stamp"], object]


class StoreError(Exception):
    """The store holds something that is not as it was written, or cannot be written to."""


class Damaged(StoreError):
    """A file of the store is not as it was written, and can be made anew once it is out of the way.

    `seen`: the file that was found so; None where it was gone, or another run has written it again.
    """

    def __init__(self, store: "Store", *parts: str, why: str, seen: "Stamp | None" = None) -> None:
        super().__init__(f"{store.path(*parts)} cannot be used: {why}")
        self._store, self._parts, self.why, self.seen = store, parts, why, seen

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), why=self.why, seen=self.seen), (self._store, *self._parts)

    def drop(self) -> None:
        """Delete what is left of it; what has been written in its place stays. Raises OSError."""
        if self.seen:
            self._store.remove(*self._parts, seen=self.seen)


class Stamp(NamedTuple):
    """What a folder's listing says of a file: who changes the file changes its stamp."""

    size: int  # bytes
    modified: int | None  # nanoseconds since the epoch; None in an object store, which says more:
    tag: str | None = None  # another where the content is


class Store:
    """Files below `url`: a local path, or an address of an object store (`s3://bucket/prefix`, `gs://`).

    Of an object store all may raise OSError: LostConnection when it could not be reached in all tries, PermissionError,
    Rejected, Changed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._bucket: Bucket | None = None
        try:
            if is_remote(url):
                self._place = Url(url)
                if not self._place.is_object:
                    raise ValueError("a web server cannot be written to")
                from clip2video_pipe.manifests.objects import bucket_of  # loaded where there is one

                self._bucket, self.base = bucket_of(self._place), str(self._place).rstrip("/")
            elif "://" in url and not url.startswith("file://"):
                raise ValueError("it has to be a folder, s3://bucket/folder or gs://bucket/folder")
            elif "://" in url:
                self._fs, self.base = pafs.FileSystem.from_uri(url)
            else:
                self._fs, self.base = pafs.LocalFileSystem(), str(Path(url).absolute())
                self._fs.get_file_info(self.base)  # names that cannot be said to a file system end here
        except (pa.ArrowException, OSError, ValueError) as error:
            said = shown(url) if is_remote(url) or "://" not in url else f"{url.partition('://')[0]}://..."
            raise StoreError(f"store {said!r} cannot be opened: {error}") from error
        self.local = self._bucket is None

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        # Workers get the place, not this process's connection; a relative path means the driver's folder.
        return Store, (self.base if self.local else self.url,)

    def reach(self) -> None:
        """Ask an object store whether it is there, and for us. Raises StoreError, which says the way out."""
        if self._bucket is None:
            return
        try:
            with self._named():
                self._bucket.folder(self._key())
        except PermissionError as error:
            raise StoreError(
                f"store {error}; keys are looked for in the environment (AWS_ACCESS_KEY_ID, or for gs:// "
                "GOOGLE_APPLICATION_CREDENTIALS), in ~/.aws, in the machine's role, and in the address (key:secret@)"
            ) from error
        except FileNotFoundError as error:
            raise StoreError(f"store {self.path()}: {error}; make it, or correct the address") from error
        except Rejected as error:
            raise StoreError(f"store {error}") from error

    def path(self, *parts: str) -> str:
        """Path of a file, or its address without secrets: to show to people, and on a local store to open."""
        return "/".join((self.base, *parts))

    @property
    def identity(self) -> str:
        """What tells it from other stores, and gives no secret away; `path()` lacks what is behind a `?`."""
        return self.base if self.local else self._place.at(self._key()).hashed()

    def stamps(self, *folder: str) -> dict[str, Stamp]:
        """Name and stamp of each finished file of a folder; empty where there is no such folder."""
        return {name: stamp for name, (stamp, _) in self._listed(*folder).items() if not name.endswith(TEMPORARY)}

    def stamp(self, *parts: str) -> Stamp | None:
        """Of one file; None where there is none."""
        if self._bucket is None:
            info = self._fs.get_file_info(self.path(*parts))
            return Stamp(info.size, info.mtime_ns) if info.is_file else None
        try:
            with self._named(*parts):
                return _stamp(self._bucket.look(self._key(*parts)))
        except FileNotFoundError:
            return None

    def folders(self, *folder: str) -> list[str]:
        """Names of the folders in a folder, sorted."""
        if self._bucket is None:
            selector = pafs.FileSelector(self.path(*folder), allow_not_found=True)
            return sorted(f.base_name for f in self._fs.get_file_info(selector) if not f.is_file)
        with self._named(*folder):
            return sorted(path.rpartition("/")[2] for path in self._bucket.folder(self._key(*folder))[1])

    def leftovers(self, *folder: str) -> dict[str, Stamp]:
        """What writers that were killed left in a folder: name and stamp of each."""
        return {name: stamp for name, (stamp, _) in self._listed(*folder).items() if name.endswith(TEMPORARY)}

    def ages(self, *folder: str) -> dict[str, float]:
        """Seconds since each file of a folder was written, those of killed writers among them."""
        now = time.time()
        return {name: now - written for name, (_, written) in self._listed(*folder).items()}

    def open(self, *parts: str) -> Any:
        """A file to read from and to seek in. Raises OSError."""
        return self.opened(*parts)[0]

    def opened(self, *parts: str) -> tuple[Any, Stamp | None]:
        """The same, and the stamp of what is read: who then deletes it deletes nothing else. Raises OSError."""
        if self._bucket is None:
            stamp = self.stamp(*parts)
            return self._fs.open_input_file(self.path(*parts)), stamp
        from clip2video_pipe.manifests.objects import ObjectSource

        url = self._place.at(self._key(*parts))
        with self._named(*parts):
            source = ObjectSource(url)
        return RemoteFile(url, source), Stamp(source.size, None, source.tag)

    def read(self, *parts: str) -> bytes | None:
        """Bytes of a file; None where there is none."""
        try:
            if self._bucket is not None:
                with self._named(*parts):
                    return self._bucket.read(self._key(*parts))
            with self._fs.open_input_stream(self.path(*parts)) as stream:
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

    def write_json(self, value: Any, *parts: str, indent: int | None = 1) -> None:
        """Without `indent` in one line, which takes a tenth of the time."""
        self.write(json.dumps(value, indent=indent, ensure_ascii=False).encode("utf-8", "replace") + b"\n", *parts)

    def remove(self, *parts: str, seen: Stamp | None = None) -> None:
        """Delete a file, if it is there; with `seen`, only if it is that one still, and not written again since."""
        if seen and self.stamp(*parts) != seen:
            return
        with contextlib.suppress(FileNotFoundError):
            if self._bucket is None:
                self._fs.delete_file(self.path(*parts))
            else:
                with self._named(*parts):
                    self._bucket.delete(self._key(*parts))

    def remove_folder(self, *folder: str) -> None:
        """Delete a folder, if it is there and empty. Object stores have none."""
        if self.local:
            with contextlib.suppress(OSError):
                Path(self.path(*folder)).rmdir()

    @contextlib.contextmanager
    def writing(self, *parts: str, keep: Keep | None = None, took: Took = lambda stamp: None) -> Iterator[Any]:
        """A binary file to write to, which takes its name when the block ends well, and else is gone.

        Where a file has that name by then, and `keep` finds that it is as good, that one stays; otherwise `took` is
        called with the stamp of the one that was written here.

        Locally: a temporary file beside it, flushed to the disk, renamed over it. An object store shows an object
        only when all of it is there, but would also show the part of one whose writer failed: so it is sent at once,
        with `keep` on condition that there is none.
        """
        name = "/".join(parts)
        if self._bucket is None:
            with self._local(name, keep, took) as sink:
                yield sink
            return
        buffer = pa.BufferOutputStream()
        yield buffer
        point(f"before {name}")
        data = buffer.getvalue()
        with self._named(name):
            tag = _send(self._bucket, self._key(name), data, keep)
        if tag:
            took(Stamp(data.size, None, tag))
        point(f"after {name}")

    @contextlib.contextmanager
    def _local(self, name: str, keep: Keep | None, took: Took) -> Iterator[Any]:
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}{TEMPORARY}")
        try:
            with temporary.open("wb") as sink:
                yield sink
                sink.flush()
                os.fsync(sink.fileno())
            point(f"before {name}")
            info = self._fs.get_file_info(str(temporary))  # by its name another run's may lie in a moment
            if _take_name(temporary, target, keep):
                took(Stamp(info.size, info.mtime_ns))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        point(f"after {name}")
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _listed(self, *folder: str) -> dict[str, tuple[Stamp, float]]:
        """Each file of a folder: its stamp, and when it was written, in seconds since the epoch."""
        if self._bucket is None:
            selector = pafs.FileSelector(self.path(*folder), allow_not_found=True)
            found = (info for info in self._fs.get_file_info(selector) if info.is_file)
            return {info.base_name: (Stamp(info.size, info.mtime_ns), info.mtime_ns / 1e9) for info in found}
        with self._named(*folder):
            objects, _ = self._bucket.folder(self._key(*folder))
        return {s["path"].rpartition("/")[2]: (_stamp(s), s["last_modified"].timestamp()) for s in objects}

    def _key(self, *parts: str) -> str:
        return "/".join((self._place.path.strip("/"), *parts)).strip("/")

    @contextlib.contextmanager
    def _named(self, *parts: str) -> Iterator[None]:
        try:
            yield
        except (PermissionError, LostConnection, Rejected, Changed) as error:
            raise type(error)(f"{self.path(*parts)}: {error}") from error


def _stamp(said: Any) -> Stamp:
    """Of what an object store says of an object."""
    return Stamp(int(said["size"]), None, said["e_tag"])


def _send(bucket: "Bucket", key: str, data: Any, keep: Keep | None) -> str | None:
    """Of two that come at a time the second asks `keep`; and so does one that did not hear that it was the first.

    Gives the e-tag; None where the other one stays.
    """
    if keep is not None:
        try:
            return bucket.put(key, data, new=True)
        except FileExistsError:
            if keep():
                return None
    return bucket.put(key, data)


def _take_name(temporary: Path, target: Path, keep: Keep | None) -> bool:
    """In one step, so that nobody sees a part of it; of two that come at a time the second asks `keep`.

    Gives whether the name is its own, and not another one's that stays.
    """
    linked = stays = False
    if keep is not None:
        try:
            os.link(temporary, target)
            linked = True
        except FileExistsError:
            stays = keep()
        except OSError:  # a file system without links
            stays = target.exists() and keep()
        if linked or stays:
            temporary.unlink()
            return linked
    temporary.replace(target)
    return True
