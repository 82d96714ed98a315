"""Where a file lies: on this machine, or at an address (`s3://`, `gs://`, `http://`, `https://`)."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

_REMOTE = re.compile(r"(?P<scheme>s3|gs|https?)://(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_OBJECT = re.compile(r"(?:(?P<user>[^@/?]*)@)?(?P<host>[^@/?:]+)(?:/(?P<path>[^?]*))?(?:\?(?P<query>.*))?", re.DOTALL)


@dataclass(frozen=True, repr=False)
class Url:
    """An address. As text it lacks what may be secret, its user, password and query; `full` has them.

    Keys of `s3://` and `gs://` are as the object store has them, with no %20 for a blank; behind a `?` come options
    (`region`, `endpoint_override`). Raises ValueError for what is no address.
    """

    full: str

    def __post_init__(self) -> None:
        said = _REMOTE.fullmatch(self.full)
        if not said:
            raise ValueError("has to be an address: s3://, gs://, http:// or https://")
        if said["scheme"].lower() in ("s3", "gs"):
            if not _OBJECT.fullmatch(said["rest"]):
                raise ValueError("has to name a bucket, as in s3://bucket/folder/file.mp4")
            return
        try:
            parts = urlsplit(self.full)
            well = bool(parts.hostname) and parts.port != 0
        except ValueError:  # its words may hold a password
            well = False
        if not well:
            raise ValueError("has to name a host, as in https://host/file.mp4")
        if parts.fragment:
            raise ValueError("what is behind '#' is not looked at; leave it out, or write it as %23")

    @cached_property
    def scheme(self) -> str:
        return self.full.partition("://")[0].lower()

    @property
    def is_object(self) -> bool:
        """Whether it lies in an object store, which can be listed."""
        return self.scheme in ("s3", "gs")

    @cached_property
    def _parts(self) -> tuple[str, str, str, str]:
        """User and password, host or bucket, path from it, query."""
        if self.is_object:
            said = _OBJECT.fullmatch(self.full.partition("://")[2])
            assert said is not None, "it was checked"
            return said["user"] or "", said["host"], said["path"] or "", said["query"] or ""
        parts = urlsplit(self.full)
        user, _, host = parts.netloc.rpartition("@")
        return user, host, parts.path.removeprefix("/"), parts.query

    @property
    def user(self) -> str:
        """User and password, as they are written."""
        return self._parts[0]

    @property
    def host(self) -> str:
        """Its host and port, or bucket."""
        return self._parts[1]

    @property
    def path(self) -> str:
        """From the host or bucket, as it is written, without the first `/`."""
        return self._parts[2]

    @property
    def query(self) -> str:
        return self._parts[3]

    def at(self, path: str) -> "Url":
        """Another path of the same host or bucket, by the same user and query."""
        user, host, _, query = self._parts
        return Url(f"{self.scheme}://{user}{'@' * bool(user)}{host}/{path}{'?' * bool(query)}{query}")

    def __truediv__(self, name: str) -> "Url":
        folder = self.path.rstrip("/")
        return self.at(f"{folder}{'/' * bool(folder)}{name if self.is_object else quote(name)}")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{'/' * bool(self.path)}{self.path}"

    def __repr__(self) -> str:
        return repr(str(self))

    @property
    def _name(self) -> PurePosixPath:
        return PurePosixPath(self.path if self.is_object else unquote(self.path))

    @property
    def stem(self) -> str:
        return self._name.stem

    @property
    def suffix(self) -> str:
        return self._name.suffix

    def hashed(self) -> str:
        """Tells it from others, and gives no secret away."""
        return f"{self}?{hashlib.sha256(self.query.encode()).hexdigest()[:16]}" if self.query else str(self)


Location = Path | Url


def is_remote(text: str) -> bool:
    """Whether it is written as an address, and not as a path."""
    return _REMOTE.match(text) is not None


def location(text: str) -> Location:
    """What `text` stands for. Raises ValueError for an address that is none."""
    return Url(text) if is_remote(text) else Path(text)


def whole(where: Location) -> str:
    """The whole of it, to open the file by: an absolute path, or the address with its secrets."""
    return where.full if isinstance(where, Url) else str(where.absolute())


def shown(text: str) -> str:
    """A path or an address for people to read: nothing secret is in it."""
    try:
        return str(Url(text)) if is_remote(text) else text
    except ValueError:
        return f"{text.partition('://')[0]}://..."
