"""Datasets: which videos there are and which captions belong to them. Each kind is a file here and a line below."""

from dataclasses import dataclass
from pathlib import Path


class DatasetError(ValueError):
    """A dataset's files do not say what they should; one line that names the file and the place in it."""


@dataclass(frozen=True)
class Video:
    """A video, or its segment from `start` to `end` seconds after the file's first frame."""

    video_id: str
    path: Path
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Caption:
    """A caption as it was written."""

    video_id: str
    text: str


@dataclass(frozen=True)
class Dataset:
    """Videos with unique ids, captions of those videos, and what the reader passed over (one line each)."""

    videos: tuple[Video, ...]
    captions: tuple[Caption, ...]
    notes: tuple[str, ...] = ()
