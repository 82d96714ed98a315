"""Datasets: which videos there are and which captions belong to them. Each kind is a file here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from clip2video_pipe.manifests.addresses import Location


class DatasetError(ValueError):
    """A dataset's files do not say what they should; one line that names the file and the place in it."""


@dataclass(frozen=True)
class Video:
    """A video, or its segment from `start` to `end` seconds after the file's first frame."""

    video_id: str
    path: Location
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Caption:
    """A caption as it was written."""

    video_id: str
    text: str


GapKind = Literal["caption-without-video", "video-without-captions", "id-twice", "file-not-asked"]


@dataclass(frozen=True)
class Gap:
    """What a dataset's files do not agree on: nothing that it names is used, and nothing is left out in silence."""

    kind: GapKind
    id: str  # a video_id, or a file's path
    message: str


@dataclass(frozen=True)
class Dataset:
    """Videos with unique ids, captions of those videos, what does not fit together, and other notes, a line each.

    Of files that were cut into windows, `durations` has the seconds that was done by; None where they cannot be told.
    """

    videos: tuple[Video, ...]
    captions: tuple[Caption, ...]
    notes: tuple[str, ...] = ()
    gaps: tuple[Gap, ...] = ()
    durations: Mapping[Location, float | None] = field(default_factory=dict)
