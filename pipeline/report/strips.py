"""Videos as strips of the frames that the model saw: small JPEG pictures that lie in the page."""

import base64
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from clip2video_pipe.manifests.schemas import OK
from clip2video_pipe.manifests.shards import read_rows
from clip2video_pipe.pipeline.plan import Step
from clip2video_pipe.stages.jpeg import compress
from clip2video_pipe.stages.pictures import pixels_of

SHOWN = 6  # frames of a video
SIDE = 72  # pixels of a frame
QUALITY = 72
AT_ONCE = 16  # videos

Pictures = npt.NDArray[np.uint8]


def strips(frames: Step, size: int, contents: Iterable[str]) -> dict[str, str]:
    """A strip of each content whose frames are in the store, as a data address; `size`: pixels of a stored picture."""
    return {item: _address(_strip(pictures)) for item, pictures in _pictures(frames, size, contents)}


def poster(frames: Step, size: int, content: str) -> bytes | None:
    """JPEG of the middle one of a content's frames, `size` pixels each way; None where they are not in the store."""
    for _, pictures in _pictures(frames, size, [content]):
        return compress(pictures[len(pictures) // 2], QUALITY)
    return None


def _pictures(frames: Step, size: int, contents: Iterable[str]) -> Iterator[tuple[str, Pictures]]:
    """Content and pictures [n, S, S, 3] of those that are there."""
    wanted = list(dict.fromkeys(contents))
    absent = set(frames.places.missing(wanted))
    there = [item for item in wanted if item not in absent and frames.places[item].outcome.status == OK]
    places = [(place.shard, place.row) for place in (frames.places[item] for item in there)]
    tables = read_rows(
        frames.store, frames.name, frames.identity.key, places, columns=["item", "pictures"], chunk=AT_ONCE
    )
    for table in tables:
        pixels, counts = pixels_of(table["pictures"].combine_chunks(), size)
        ends = np.cumsum(counts).tolist()
        for item, count, end in zip(table["item"].to_pylist(), counts, ends, strict=True):
            if count:
                yield item, pixels[end - count : end]


def _strip(pictures: Pictures) -> bytes:
    """Pictures [n, S, S, 3] side by side, at most SHOWN of them, evenly."""
    chosen = pictures[np.unique(np.linspace(0, len(pictures) - 1, min(SHOWN, len(pictures))).round().astype(int))]
    side = min(SIDE, pictures.shape[1])
    small = [np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BOX)) for picture in chosen]
    return compress(np.concatenate(small, axis=1), QUALITY)


def _address(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"
