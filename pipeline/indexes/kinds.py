"""The kinds of index by name, each made where its library is installed."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.indexes.base import Kind
from clip2video_pipe.pipeline.indexes.faiss import Faiss
from clip2video_pipe.pipeline.indexes.lance import Lance


class _Made(NamedTuple):
    make: Callable[[], Kind]
    needs: str
    extra: str


KINDS: Mapping[str, _Made] = {"lance": _Made(Lance, "lancedb", "index"), "faiss": _Made(Faiss, "faiss-cpu", "faiss")}


def kind_of(name: str) -> Kind:
    """Raises RequestError, also where the library is not installed."""
    if (said := KINDS.get(name)) is None:
        raise RequestError(f"index: --kind is {name!r}; it has to be {' or '.join(KINDS)}")
    try:
        return said.make()
    except ImportError as error:
        hint = f"pip install 'clip2video-pipe[{said.extra}]'"
        raise RequestError(f"index: {name} needs {said.needs}, which is not installed: {hint}") from error
