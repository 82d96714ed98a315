"""What ffmpeg's libraries read a video from: a local file by its name, a remote one through a file object."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clip2video_pipe.manifests.addresses import Url, is_remote
from clip2video_pipe.manifests.remote import RemoteFile, open_remote
from clip2video_pipe.stages.decoding.failures import DecodeError, Failure


@contextmanager
def readable(path: str) -> Iterator[str | RemoteFile]:
    """What `av.open` takes for a path or an address.

    Raises DecodeError for what became of the connection, whatever the libraries made of that: they may take it for
    damage, or for the file's end. It is `passing`: the connection says nothing about what is in the file.
    """
    if not is_remote(path):
        yield f"file:{Path(path).absolute()}"  # "file:" keeps a colon in a name from being read as a protocol
        return
    try:
        file = open_remote(Url(path))
    except OSError as error:
        raise _lost(path, error) from error
    with file:
        try:
            size = file.size
        except OSError as error:
            raise _lost(path, error) from error
        if not size:
            raise DecodeError("unreadable", path, "is empty")
        try:
            yield file
        except Exception:
            _look(path, file)
            raise
        _look(path, file)
        try:
            file.check()
        except OSError as error:
            raise _lost(path, error) from error


def _look(path: str, file: RemoteFile) -> None:
    """Raise what reading gave, if it gave an error."""
    if isinstance(file.error, OSError):
        raise _lost(path, file.error) from file.error
    if file.error is not None:
        raise file.error


def _lost(path: str, error: OSError) -> DecodeError:
    failure: Failure = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
    return DecodeError(failure, path, error.strerror or str(error), passing=True)
