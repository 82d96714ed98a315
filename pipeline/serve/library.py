"""A corpus as the page sees it: its videos by key, where their files lie, what they look like, and who is near."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clip2video_pipe.manifests.addresses import is_remote
from clip2video_pipe.manifests.schemas import OK
from clip2video_pipe.manifests.shards import read_rows, well
from clip2video_pipe.models.text import clean
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.export import video_vectors
from clip2video_pipe.pipeline.plan import Plan, embedding_stages
from clip2video_pipe.pipeline.report.strips import poster
from clip2video_pipe.stages import caption_embeddings
from clip2video_pipe.stages.frames import Frames
from clip2video_pipe.stages.scoring import TEXT_TO_VIDEO
from clip2video_pipe.stages.vectors import joined
from clip2video_pipe.stages.video_embeddings import VideoEmbeddings

BLOCK = 65536  # vectors that are looked at at a time
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Video:
    """One of the videos that have a vector. `seconds` is None where nothing tells it."""

    key: str
    video_id: str
    content: str
    start: float | None
    end: float | None
    seconds: float | None

    @property
    def folder(self) -> str:
        """What its id has before the last slash; empty without one."""
        parent = str(PurePosixPath(self.video_id).parent)
        return "" if parent == "." else parent


class Library:
    """What is searched and shown. Raises RequestError where the embeddings are not there."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        found = video_vectors(plan)
        self._vectors = found.vectors
        listed = plan.listing.videos
        rows = {
            row["video_id"]: row for row in listed.select(["item", "video_id", "video", "start", "end"]).to_pylist()
        }
        lengths = self._lengths()
        self.videos = [
            Video(
                row["item"],
                name,
                row["video"],
                row["start"],
                row["end"],
                _seconds(row["start"], row["end"], lengths.get(row["video"])),
            )
            for name in found.ids["video_id"].to_pylist()
            for row in [rows[name]]
        ]
        self.at = {video.key: n for n, video in enumerate(self.videos)}
        if not self.videos:
            raise RequestError(f"serve: no video of {plan.config.name!r} has a vector; 'explain' says why")

    @property
    def name(self) -> str:
        return self._plan.config.name

    @cached_property
    def folders(self) -> list[str]:
        """Of the videos, in order."""
        return sorted({video.folder for video in self.videos})

    def load(self) -> None:
        """Have the model that reads queries ready, so that the first one does not wait."""
        self.embed(["a video"])

    def embed(self, texts: Sequence[str]) -> Floats:
        """float32 [texts, width]: what a caption's vector would be; its product with a video's is their score."""
        cleaned = [clean(text) for text in texts]
        rows = self._reader.process(pa.table({"item": cleaned, "text": cleaned}, caption_embeddings.SOURCE))
        weight = self._plan.config.model.center_weight
        return joined(rows, (math.sqrt(weight), math.sqrt(1 - weight)))

    def vector(self, n: int) -> Floats:
        """float32 [width] of a video."""
        one: Floats = self._vectors.take(np.array([n]))[0]
        return one

    def scores(self, queries: Floats) -> Floats:
        """float32 [queries, videos]."""
        found = np.empty((len(queries), len(self.videos)), np.float32)
        for start in range(0, len(self.videos), BLOCK):
            stop = min(start + BLOCK, len(self.videos))
            found[:, start:stop] = queries @ self._vectors.read(start, stop).T
        return found

    def wanted(self, folder: str | None, shortest: float | None, longest: float | None) -> Mask | None:
        """bool [videos]: which of them a filter leaves; None where it leaves all."""
        if folder is None and shortest is None and longest is None:
            return None
        mask = np.ones(len(self.videos), np.bool_)
        if folder is not None:
            within = np.array([name == folder or name.startswith(f"{folder}/") for name in self._folder_of])
            mask &= within
        if shortest is not None:
            mask &= self._long >= shortest  # false where nothing is known
        if longest is not None:
            mask &= self._long <= longest
        return mask

    @cached_property
    def _folder_of(self) -> list[str]:
        return [video.folder for video in self.videos]

    @cached_property
    def _long(self) -> npt.NDArray[np.float64]:
        return np.array([math.nan if video.seconds is None else video.seconds for video in self.videos])

    def file(self, video: Video) -> Path | None:
        """The file that a video is in, or a part of; None where it is not on this machine, or has gone."""
        path = self._plan.listing.sources[video.content].path
        if is_remote(os.fsdecode(path)):
            return None
        found = Path(os.fsdecode(path))
        return found if found.is_file() else None

    def poster(self, video: Video) -> bytes | None:
        """JPEG of the middle one of its frames; None where frames were not kept."""
        frames = self._plan.frames
        if not frames.kept:
            return None
        assert isinstance(frames.stage, Frames)
        return poster(frames, frames.stage.size, video.content)

    def captions(self, video: Video) -> list[dict[str, Any]]:
        """Its captions in the dataset, each with the rank that the video has for it, where that was scored."""
        at = self._captions_of.get(video.video_id, [])
        rows = self._plan.listing.captions.take(pa.array(at, pa.int64())).select(["item", "text"]).to_pylist()
        ranks = self._ranks([row["item"] for row in rows])
        return [{"text": row["text"], "rank": ranks.get(row["item"])} for row in rows if row["text"]]

    def _ranks(self, items: Sequence[str]) -> dict[str, float]:
        step = self._similarity
        if step is None:
            return {}
        there = [item for item in items if step.places[item].outcome.status == OK]
        places = [(step.places[item].shard, step.places[item].row) for item in there]
        columns = ["item", "direction", "better", "equal"]
        found = {}
        for table in read_rows(
            step.store, step.name, step.identity.key, places, columns=columns, chunk=max(1, len(there))
        ):
            for row in table.to_pylist():
                if row["direction"] == TEXT_TO_VIDEO:
                    found[row["item"]] = 1 + row["better"] + row["equal"] / 2
        return found

    @cached_property
    def _similarity(self) -> Any:
        """The step of the scores, if it is complete."""
        if self._plan.caption_embeddings is None or self._plan.caption_embeddings.manifest is None:
            return None
        scoring = self._plan.scoring()
        return scoring[0] if scoring and scoring[0].manifest else None

    @cached_property
    def _captions_of(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for n, name in enumerate(self._plan.listing.captions["video_id"].to_pylist()):
            found.setdefault(name, []).append(n)
        return found

    @cached_property
    def _reader(self) -> Any:
        stage = self._plan.video_embeddings.stage
        assert isinstance(stage, VideoEmbeddings)
        reader = embedding_stages(self._plan.config, stage.model)[2]
        reader.setup()
        return reader

    def _lengths(self) -> dict[str, float]:
        """Seconds of each content, from its frames, where they are there."""
        manifest = self._plan.frames.manifest
        if manifest is None:
            return {}
        rows = well(manifest.table(["item", "status", "decoded", "rate"]))
        seconds = pc.divide(rows["decoded"].cast(pa.float64()), rows["rate"])
        return dict(zip(rows["item"].to_pylist(), seconds.to_pylist(), strict=True))


def _seconds(start: float | None, end: float | None, known: float | None) -> float | None:
    """How long a video is: its window, or all of the clip."""
    if start is not None and end is not None:
        return end - start
    return known if known is not None and math.isfinite(known) else None
