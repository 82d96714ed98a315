"""a dataset -> videos, captions: which items there are, by content. No pixels are looked at."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clip2video_pipe.manifests import keys, schemas
from clip2video_pipe.manifests.addresses import Location, whole
from clip2video_pipe.manifests.fingerprints import Extent, Fingerprints
from clip2video_pipe.manifests.shards import WELL, Outcome, outcome_table, well
from clip2video_pipe.models.text import clean
from clip2video_pipe.stages.datasets import Caption, Dataset, Gap, Video

LISTING_VERSION = 1  # raised when the same dataset gives other rows

_video_item = keys.digest_of("error", "video", "video_id")
_caption_item = keys.digest_of("caption", "caption_id", "video")
EMPTY_CAPTION = "empty-caption"


@dataclass(frozen=True)
class Source:
    """One of the files that hold a video's content."""

    path: str  # or an address, whole
    start: float | None
    end: float | None


@dataclass(frozen=True)
class Listing:
    """A dataset's videos and captions as tables, and what has to be decoded and embedded, each content once."""

    videos: pa.Table  # of schemas.VIDEOS, in the dataset's order
    captions: pa.Table  # of schemas.CAPTIONS
    files: Sequence[Location]  # each once
    file: npt.NDArray[np.int32]  # of each video, the position of its file in `files`
    contents: Sequence[str | OSError]  # of each file, its fingerprint, or why it cannot be read
    durations: Mapping[Location, float | None]  # seconds, of the files that were cut into windows
    notes: tuple[str, ...] = ()  # of the dataset
    gaps: tuple[Gap, ...] = ()

    # What follows is made when it is asked for: of a million videos that are all there, it is not.

    @cached_property
    def sources(self) -> dict[str, Source]:
        """A file that holds each content, by its key."""
        paths = [whole(path) for path in self.files]
        columns = (self.videos[name].to_pylist() for name in ("video", "start", "end"))
        found: dict[str, Source] = {}
        for n, key, start, end in zip(self.file.tolist(), *columns, strict=True):
            if key is not None and key not in found:
                found[key] = Source(paths[n], start, end)
        return found

    @property
    def source_keys(self) -> list[str]:
        """The keys of `sources`, in order."""
        keys: list[str] = pc.unique(self.videos["video"]).drop_null().to_pylist()
        return keys

    @cached_property
    def texts(self) -> dict[str, str]:
        """Cleaned captions by the key of the text."""
        rows = well(self.captions.select(["status", "caption", "text"]))
        return dict(zip(*(rows[name].to_pylist() for name in ("caption", "text")), strict=True))

    @property
    def text_keys(self) -> list[str]:
        """The keys of `texts`, in order."""
        keys: list[str] = pc.unique(well(self.captions.select(["status", "caption"]))["caption"]).to_pylist()
        return keys


def list_dataset(dataset: Dataset, fingerprints: Fingerprints, extent: Extent) -> Listing:
    """Find each item's key. A file that cannot be read is a failed row: `missing` or `unreadable`."""
    position: dict[Location, int] = {}
    file = np.array([position.setdefault(video.path, len(position)) for video in dataset.videos], np.int32)
    contents = fingerprints.of(list(position), extent)
    videos = _videos(dataset.videos, [contents[n] for n in file.tolist()])
    row_of = dict(zip(videos["video_id"].to_pylist(), videos["item"].to_pylist(), strict=True))
    captions = _captions(dataset.captions, row_of)
    return Listing(videos, captions, list(position), file, contents, dataset.durations, dataset.notes, dataset.gaps)


def _videos(videos: Sequence[Video], contents: Sequence[str | OSError]) -> pa.Table:
    items: list[str] = []
    outcomes: list[Outcome] = []
    columns: dict[str, list[Any]] = {name: [] for name in ("video_id", "video", "start", "end", "bytes")}
    for video, content in zip(videos, contents, strict=True):
        key = None
        if isinstance(content, OSError):
            outcome = _unread(video.path, content)
        else:
            outcome = WELL
            key = keys.video_key(content, video.start, video.end)
        items.append(_video_item(outcome.error, key, video.video_id))
        outcomes.append(outcome)
        size = None if key is None else int(str(content).partition("-")[0])
        for name, value in zip(columns, (video.video_id, key, video.start, video.end, size), strict=True):
            columns[name].append(value)
    return outcome_table(schemas.VIDEOS, items, outcomes, columns)


def _unread(path: Location, error: OSError) -> Outcome:
    failure = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
    return Outcome(schemas.FAILED, failure, f"{str(path)!r}: {error.strerror or error}")


def _captions(captions: Sequence[Caption], row_of: dict[str, str]) -> pa.Table:
    items: list[str] = []
    outcomes: list[Outcome] = []
    columns: dict[str, list[Any]] = {name: [] for name in ("caption_id", "video_id", "caption", "text")}
    copies: Counter[tuple[str, str]] = Counter()
    for caption in captions:
        text = clean(caption.text)
        key = keys.caption_key(text)
        copies[caption.video_id, key] += 1
        # A caption's id follows from what it says, so that one added or moved leaves the others theirs.
        caption_id = f"{caption.video_id}#{key[:8]}"
        if (copy := copies[caption.video_id, key]) > 1:
            caption_id += f"-{copy}"
        items.append(_caption_item(key, caption_id, row_of[caption.video_id]))
        if text:
            outcomes.append(WELL)
        else:
            outcomes.append(Outcome(schemas.FAILED, EMPTY_CAPTION, f"nothing is left of {caption.text!r}"))
        for name, value in zip(columns, (caption_id, caption.video_id, key, text), strict=True):
            columns[name].append(value)
    return outcome_table(schemas.CAPTIONS, items, outcomes, columns)


def list_bank(captions: Iterable[str]) -> pa.Table:
    """Of schemas.QUERY_BANK: each text once; those that nothing is left of are no queries."""
    texts = {keys.caption_key(text): text for text in map(clean, captions) if text}
    outcomes = [WELL] * len(texts)
    return outcome_table(schemas.QUERY_BANK, list(texts), outcomes, {"text": list(texts.values())})
