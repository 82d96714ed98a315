"""Remote files as Python's file objects: `s3://`, `gs://`, `http(s)://`."""

import errno
import io
from collections import OrderedDict
from typing import Protocol

from clip2video_pipe.manifests.addresses import Url

BLOCK = 1 << 20
AHEAD = 4  # blocks that one request asks for at most, where one is read after the other
KEPT = 16  # blocks
SETTLED = 2.0  # seconds: a file changed as lately as this may change again within its time stamp's grain


class Source(Protocol):
    """Where a remote file's bytes come from. All raise OSError."""

    mark: str | None  # is another when the content is; None where nothing says so

    @property
    def size(self) -> int: ...

    def read(self, start: int, stop: int) -> bytes: ...

    def check(self) -> None: ...

    def close(self) -> None: ...


class RemoteFile(io.RawIOBase):
    """A remote file, to be read and sought. Blocks are read ahead and kept, so that small reads need few requests.

    An error is kept in `error`, and raised by every read thereafter: a library that reads through this may say
    something else, or take it for the end.
    """

    def __init__(self, url: Url, source: Source) -> None:
        super().__init__()
        self.name = str(url)
        self.mark = source.mark
        self.error: BaseException | None = None
        self._source = source
        self._at = 0
        self._ahead = 1
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    @property
    def size(self) -> int:
        return self._source.size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at}.get(whence)
        to = (self.size if start is None else start) + offset
        if to < 0:
            raise OSError(errno.EINVAL, "is before the file's beginning")
        self._at = to
        return to

    def read(self, size: int = -1) -> bytes:
        """So many bytes, and fewer at the end only: who parses takes fewer for the end."""
        if size < 0:
            return self.readall()
        pieces = [piece := super().read(size) or b""]
        while piece and (left := size - sum(map(len, pieces))):
            pieces.append(piece := super().read(left) or b"")
        return b"".join(pieces)

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """As much as the block at this place has; nothing at the end."""
        if self.error is not None:
            raise OSError("it could not be read before") from self.error
        try:
            data = self._piece(len(buffer))
        except BaseException as error:
            self.error = error
            if isinstance(error, Exception):
                raise
            raise OSError("interrupted") from error  # a C library that calls this would print it and go on
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def at(self, start: int, size: int) -> bytes:
        """The bytes from `start`, up to `size` of them; nothing is read ahead."""
        return self._source.read(start, min(start + size, self.size))

    def check(self) -> None:
        """Raises OSError if the file is not the one any more that was opened."""
        self._source.check()

    def close(self) -> None:
        if not self.closed:
            self._blocks.clear()
            self._source.close()
        super().close()

    def _piece(self, size: int) -> bytes:
        if self._at >= self.size:
            return b""
        number, begin = divmod(self._at, BLOCK)
        if number not in self._blocks:
            self._fetch(number)
        self._blocks.move_to_end(number)
        return self._blocks[number][begin : begin + size]

    def _fetch(self, number: int) -> None:
        self._ahead = min(2 * self._ahead, AHEAD) if number - 1 in self._blocks else 1
        start = number * BLOCK
        data = self._source.read(start, min(start + self._ahead * BLOCK, self.size))
        for begin in range(0, len(data), BLOCK):
            self._blocks[number + begin // BLOCK] = data[begin : begin + BLOCK]
        while len(self._blocks) > KEPT:
            self._blocks.popitem(last=False)


def open_remote(url: Url) -> RemoteFile:
    """Open a remote file; close it in the end. Nothing but its size and its mark has been read then.

    Raises OSError: FileNotFoundError, PermissionError, or LostConnection when it could not be reached in all tries.
    """
    if url.is_object:
        from clip2video_pipe.manifests.objects import ObjectSource

        return RemoteFile(url, ObjectSource(url))
    from clip2video_pipe.manifests.http import HttpSource  # requests is loaded where there is something to ask for

    return RemoteFile(url, HttpSource(url))
