"""Files of object stores: one to read from, and all below a prefix."""

from clip2video_pipe.manifests.addresses import Url
from clip2video_pipe.manifests.buckets import Bucket, bucket
from clip2video_pipe.manifests.retries import Changed


class ObjectSource:
    """A file behind an `s3://` or `gs://` address: every answer has to be of the same object as the first.

    Raises OSError: FileNotFoundError, PermissionError, LostConnection, Rejected, Changed.
    """

    def __init__(self, url: Url) -> None:
        if not url.path.strip("/"):
            raise OSError("it is a folder")
        self._bucket = bucket_of(url)
        self._key = url.path
        found = self._bucket.look(self._key)
        self.size = int(found["size"])
        self.tag: str | None = found["e_tag"]
        self.mark = f"{self.size} {self.tag}" if self.tag else None

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`, all of them."""
        if start >= stop:
            return b""
        data = self._bucket.read(self._key, start, stop, self.tag)
        if len(data) < stop - start:
            raise Changed("it became shorter while it was read")
        return data

    def check(self) -> None:
        """Nothing: each answer was looked at."""

    def close(self) -> None:
        """Nothing: connections are the bucket's."""


def list_objects(url: Url) -> list[tuple[str, Url]]:
    """Every object below a prefix by its path from there, sorted. Raises OSError; NotADirectoryError for an object."""
    base = url.path.strip("/")
    found = bucket_of(url).below(base)
    if not found and base:
        bucket_of(url).look(base)
        raise NotADirectoryError("it is a file, not a folder")
    keys = sorted(said["path"] for said in found)
    return [(key[len(base) :].lstrip("/"), url.at(key)) for key in keys]


def bucket_of(url: Url) -> Bucket:
    """The bucket that an address lies in."""
    return bucket(url.at("").full)
