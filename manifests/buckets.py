"""One bucket of an object store, by way of obstore: what may pass is tried again, and errors are OSErrors."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import GCSStore, S3Store

from clip2video_pipe.manifests.addresses import Url
from clip2video_pipe.manifests.clients import settings
from clip2video_pipe.manifests.retries import Changed, Rejected, TryAgain, retried

PATIENCE = 30  # seconds without a byte, after which a request counts as lost
SLOWEST = 1 << 19  # bytes a second: what is sent more slowly than this counts as lost
LARGEST = 5 << 30  # bytes, which is what S3 takes in one request

# obstore has classes for most errors, and words only for these.
STATUS = re.compile(r"status code: (?P<status>\d{3}(?: [A-Z][A-Za-z ]*)?)")
CODE = re.compile(r"<Code>(\w+)</Code>")
SYSTEM = re.compile(r'\b(?:message|error): "([^"\n]+)"')
MACHINE_ROLE = re.compile(r"//169\.254\.|//\[fd00:ec2::254\]|//metadata\.google")
OTHER_REGION = re.compile(r"without LOCATION|<Code>(AuthorizationHeaderMalformed|PermanentRedirect)<")

T = TypeVar("T")


class Bucket:
    """Of an address without a path. All raise OSError: PermissionError, LostConnection, Rejected, FileNotFoundError."""

    def __init__(self, url: Url) -> None:
        self._url = url
        self._reached = False
        try:
            self._client()
        except ValueError as error:
            raise Rejected(str(error)) from None
        except BaseError as error:
            raise Rejected(str(error).splitlines()[0].replace(url.full, str(url))) from None

    def look(self, key: str) -> Any:
        """`size`, `e_tag` and `path` of an object."""
        return self._tried(lambda: obstore.head(self._client(), key))

    def read(self, key: str, start: int = 0, stop: int | None = None, tag: str | None = None) -> bytes:
        """Its bytes, or some of them. Raises Changed where it has not this `tag`."""

        def attempt() -> bytes:
            options: Any = {} if stop is None else {"range": (start, stop)}
            found = obstore.get(self._client(), key, options=options | ({"if_match": tag} if tag else {}))
            if tag and found.meta["e_tag"] not in (tag, None):  # the server knows no conditions
                raise Changed("it changed while it was read")
            return bytes(found.bytes())

        return self._tried(attempt)

    def below(self, prefix: str) -> list[Any]:
        """What `look` says of every object below a folder."""
        return self._tried(lambda: list(obstore.list(self._client(), prefix or None, chunk_size=1000).collect()))

    def folder(self, prefix: str) -> tuple[list[Any], list[str]]:
        """What `look` says of the objects that lie in a folder, and the paths of the folders in it."""
        found = self._tried(lambda: obstore.list_with_delimiter(self._client(), prefix or None))
        return list(found["objects"]), list(found["common_prefixes"])

    def put(self, key: str, data: Any, *, new: bool = False) -> str | None:
        """Send an object in one request, so that it is there as a whole, and give its e-tag.

        `new`: raises FileExistsError if one is there.

        It may be ours: the answer to a try that did its work may have been lost.
        """
        data = memoryview(data).cast("B")
        size = data.nbytes
        if size > LARGEST:
            raise Rejected(f"is {size / 1e9:.1f} GB, and an object store takes {LARGEST / 1e9:.1f} at once")
        client = self._client(-(-(size // SLOWEST) // 30) * 30)  # in steps: each has a client of its own
        mode: Any = "create" if new else "overwrite"
        return self._tried(lambda: obstore.put(client, key, data, mode=mode, use_multipart=False), new=new)["e_tag"]

    def delete(self, key: str) -> None:
        """Raises FileNotFoundError, or does not, where there is none: as the server likes it."""
        self._tried(lambda: obstore.delete(self._client(), key))

    def _client(self, more: int = 0) -> S3Store | GCSStore:
        return _client(self._url.at("").full, PATIENCE, more)

    def _tried(self, attempt: Callable[[], T], *, new: bool = False) -> T:
        def one() -> T:
            with self._said(new):
                return attempt()

        found = retried(one, self._url.host)
        self._reached = True
        return found

    @contextmanager
    def _said(self, new: bool) -> Iterator[None]:
        """What obstore says fills a page, with the whole address: of it is kept what is known to be no secret."""
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(_absent(str(error))) from None
        except PreconditionError:
            raise Changed("it changed while it was read") from None
        except ValueError as error:
            if "path" not in str(error):
                raise
            raise Rejected("object stores are not asked for names with '//', '.' or '..' in them") from None
        except AlreadyExistsError:
            if new:
                raise FileExistsError("there is such an object") from None
            raise TryAgain("the server says 409 Conflict") from None
        except BaseError as error:
            raise self._other(str(error)) from None

    def _other(self, text: str) -> Exception:
        if MACHINE_ROLE.search(text) and not self._reached:
            return PermissionError("there are no credentials")
        if OTHER_REGION.search(text):
            return Rejected("the bucket lies in another region: name it, as in s3://bucket?region=eu-west-1")
        said = STATUS.search(text)
        if not said:
            if "kind: Builder" in text:
                return Rejected("endpoint_override is no host and port")
            reason = SYSTEM.search(text)
            silent = "kind: Connect" in text or "TimedOut" in text
            why = "no answer in time" if "TimedOut" in text else "no connection" if silent else "broke off"
            return TryAgain(reason[1] if reason else why, answered=not silent)
        status, code = int(said["status"][:3]), CODE.search(text)
        why = f"the server says {said['status'].strip()}{f' ({code[1]})' if code else ''}"
        if MACHINE_ROLE.search(text) or status in (408, 409, 425, 429) or (status >= 500 and status != 501):
            return TryAgain(why)
        if status in (401, 403):
            return PermissionError(why)
        if status == 404:
            return FileNotFoundError(_absent(text))
        return Changed("it became shorter while it was read") if status == 416 else Rejected(why)


def _absent(text: str) -> str:
    return f"there is no such {'bucket' if 'NoSuchBucket' in text else 'object'}"


@cache
def bucket(base: str) -> Bucket:
    """Of an address without a path; one a process, which keeps its connections."""
    return Bucket(Url(base))


@cache
def _client(base: str, patience: float, more: int) -> S3Store | GCSStore:
    """`more`: seconds that sending takes: until all is sent no answer is due."""
    kind, said, web = settings(Url(base))
    limits = {"connect_timeout": min(5, patience), "read_timeout": patience + more, "timeout": 600 + more}
    options: Any = {name: timedelta(seconds=limit) for name, limit in limits.items()}
    # One quick try more is for connections that a server had closed; all else is for `retried`.
    retry: Any = {"max_retries": 1, "backoff": {"init_backoff": timedelta(seconds=0.1)}}
    store = S3Store if kind == "s3" else GCSStore
    options |= web
    return store(Url(base).host, client_options=options, retry_config=retry, **said)
