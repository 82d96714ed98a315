"""a dataset -> videos, captions: which items there are, by content. No pixels are looked at."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clip2video_pipe.manifests import keys, schemas
from clip2video_pipe.manifests.addresses import Location, whole
from clip2video_pipe.manifests.fingerprints import Extent, Fingerprints
from clip2video_pipe.manifests.shards import Outcome, outcome_table
from clip2video_pipe.models.text import clean
from clip2video_pipe.stages.datasets import Caption, Dataset, Video

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
    sources: dict[str, Source]  # by the key of the video's content
    texts: dict[str, str]  # cleaned captions by the key of the text


def list_dataset(dataset: Dataset, fingerprints: Fingerprints, extent: Extent) -> Listing:
    """Find each item's key. A file that cannot be read is a failed row: `missing` or `unreadable`."""
    videos, sources = _videos(dataset.videos, fingerprints, extent)
    row_of = dict(zip(videos["video_id"].to_pylist(), videos["item"].to_pylist(), strict=True))
    captions, texts = _captions(dataset.captions, row_of)
    return Listing(videos, captions, sources, texts)


def _videos(videos: Sequence[Video], fingerprints: Fingerprints, extent: Extent) -> tuple[pa.Table, dict[str, Source]]:
    sources: dict[str, Source] = {}
    items: list[str] = []
    outcomes: list[Outcome] = []
    columns: dict[str, list[Any]] = {name: [] for name in ("video_id", "video", "start", "end", "bytes")}
    contents = fingerprints.of([video.path for video in videos], extent)
    for video, content in zip(videos, contents, strict=True):
        key = None
        if isinstance(content, OSError):
            outcome = _unread(video.path, content)
        else:
            outcome = Outcome(schemas.OK)
            key = keys.video_key(content, video.start, video.end)
            sources.setdefault(key, Source(whole(video.path), video.start, video.end))
        items.append(keys.digest({"video_id": video.video_id, "video": key, "error": outcome.error}))
        outcomes.append(outcome)
        size = None if key is None else int(str(content).partition("-")[0])
        for name, value in zip(columns, (video.video_id, key, video.start, video.end, size), strict=True):
            columns[name].append(value)
    return outcome_table(schemas.VIDEOS, items, outcomes, columns), sources


def _unread(path: Location, error: OSError) -> Outcome:
    failure = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
    return Outcome(schemas.FAILED, failure, f"{str(path)!r}: {error.strerror or error}")


def _captions(captions: Sequence[Caption], row_of: dict[str, str]) -> tuple[pa.Table, dict[str, str]]:
    texts: dict[str, str] = {}
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
        items.append(keys.digest({"caption_id": caption_id, "caption": key, "video": row_of[caption.video_id]}))
        if text:
            texts[key] = text
            outcomes.append(Outcome(schemas.OK))
        else:
            outcomes.append(Outcome(schemas.FAILED, EMPTY_CAPTION, f"nothing is left of {caption.text!r}"))
        for name, value in zip(columns, (caption_id, caption.video_id, key, text), strict=True):
            columns[name].append(value)
    return outcome_table(schemas.CAPTIONS, items, outcomes, columns), texts


def list_bank(captions: Iterable[str]) -> pa.Table:
    """Of schemas.QUERY_BANK: each text once; those that nothing is left of are no queries."""
    texts = {keys.caption_key(text): text for text in map(clean, captions) if text}
    outcomes = [Outcome(schemas.OK)] * len(texts)
    return outcome_table(schemas.QUERY_BANK, list(texts), outcomes, {"text": list(texts.values())})
