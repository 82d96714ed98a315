"""videos -> frames: L small pictures of each video."""

import itertools
import os
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from clip2video_pipe.manifests import schemas
from clip2video_pipe.manifests.faults import point
from clip2video_pipe.manifests.shards import Outcome, outcome_table
from clip2video_pipe.stages.base import Stage, unkeyed
from clip2video_pipe.stages.decoding import Clip, DecodeError
from clip2video_pipe.stages.decoding.apart import Limits, cpu_seconds_apart, decode_apart, most_seconds
from clip2video_pipe.stages.jpeg import compress
from clip2video_pipe.stages.sampling import Sampling

ROW_GROUP_BYTES = 16 << 20

SOURCE = pa.schema(
    [
        pa.field("item", pa.string()),
        pa.field("path", pa.binary()),  # as the file system has it: names need not be text; or an address
        pa.field("start", pa.float64()),
        pa.field("end", pa.float64()),
    ]
)


@dataclass(kw_only=True, eq=False)
class Frames(Stage):
    """Decodes each video and keeps the pictures that `sampling` chooses, `size` pixels square.

    Reads SOURCE rows: the item key, the file's path, and the segment in seconds (nulls: all of it).
    """

    name: ClassVar[str] = "frames"
    version: ClassVar[int] = 2
    lane: ClassVar[Literal["task", "actor"]] = "task"

    sampling: Sampling
    size: int
    decoder: str = "av"
    min_frames: int = 1  # a clip with fewer pictures fails
    damaged: Literal["keep", "fail"] = "keep"  # what becomes of a clip that has packets which do not decode
    encoding: Literal["raw", "jpeg"] = "raw"  # of the pictures that are kept
    quality: int = 95  # of JPEG
    limits: Limits = unkeyed(Limits(600.0, 4 * 10**9))
    threads: int = unkeyed(1)

    @property
    def schema(self) -> pa.Schema:
        return schemas.frames(self.size, raw=self.encoding == "raw")

    @property
    def chunk(self) -> int:
        return max(1, ROW_GROUP_BYTES // (self.sampling.most * self.size * self.size * 3))

    def params(self) -> dict[str, Any]:
        params = {**super().params(), "sampling": self.sampling.key_params()}
        if self.encoding == "raw":
            del params["quality"]
        return params

    def use_threads(self, count: int) -> None:
        self.threads = min(count, os.cpu_count() or 1)

    def patience(self, rows: int) -> float:
        return super().patience(rows) + rows * most_seconds(self.limits)

    def cpu_seconds(self) -> float:
        return super().cpu_seconds() + cpu_seconds_apart()

    def process(self, table: pa.Table) -> pa.Table:
        point("decode")
        results: list[Clip | Outcome] = []
        rows = table.select(SOURCE.names[1:]).to_pylist()
        for path, segments in itertools.groupby(rows, key=lambda row: row["path"]):
            results += self._decode(os.fsdecode(path), [(row["start"], row["end"]) for row in segments])
        outcomes = [r if isinstance(r, Outcome) else Outcome(schemas.OK, None, r.note) for r in results]
        clips = [None if isinstance(r, Outcome) else r for r in results]
        columns = {
            name: pa.array([c and getattr(c, name) for c in clips], self.schema.field(name).type)
            for name in ("times", "rate", "decoded", "lost", "width", "height")
        }
        columns["pictures"] = _raw(clips, self.size) if self.encoding == "raw" else _jpeg(clips, self.quality)
        return outcome_table(self.schema, table["item"].to_pylist(), outcomes, columns)

    def _decode(self, name: str, segments: list[tuple[float | None, float | None]]) -> list[Clip | Outcome]:
        """Clips of a file's segments, decoded in one pass."""
        try:
            found = decode_apart(
                self.limits,
                name,
                segments,
                sampling=self.sampling,
                size=self.size,
                decoder=self.decoder,
                threads=self.threads,
            )
        except DecodeError as error:
            found = [error] * len(segments)
        checked = [self._check(name, clip) for clip in found]
        return [_failed(c) if isinstance(c, DecodeError) else c for c in checked]

    def _check(self, name: str, clip: Clip | DecodeError) -> Clip | DecodeError:
        """Whether what was decoded is enough."""
        if isinstance(clip, DecodeError):
            return clip
        if clip.lost and self.damaged == "fail":
            return DecodeError("damaged", name, f"{clip.lost} packets did not decode (sampling.damaged: fail)")
        if (pictures := len(np.unique(clip.times))) < self.min_frames:
            why = f"it has {pictures} frames to look at, and sampling.min_frames is {self.min_frames}"
            if clip.lost:
                return DecodeError("damaged", name, f"{why}; {clip.lost} packets did not decode")
            return DecodeError("no-frames", name, why)
        return clip


def _failed(error: DecodeError) -> Outcome:
    return Outcome(schemas.FAILED, error.failure, str(error), error.passing)


def _raw(clips: list[Clip | None], size: int) -> pa.ListArray:
    """Pictures of each clip as lists of `size * size * 3` bytes, without a Python object for each."""
    counts = [0 if clip is None else len(clip.pictures) for clip in clips]
    found = [clip.pictures for clip in clips if clip is not None]
    pixels = np.concatenate(found) if found else np.empty((0, size, size, 3), np.uint8)
    values = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(size * size * 3), len(pixels), [None, pa.py_buffer(np.ascontiguousarray(pixels))]
    )
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array([clip is None for clip in clips]))


def _jpeg(clips: list[Clip | None], quality: int) -> pa.ListArray:
    """Pictures of each clip as lists of JPEG files."""
    files = [clip and [compress(picture, quality) for picture in clip.pictures] for clip in clips]
    return pa.array(files, pa.list_(pa.binary()))
