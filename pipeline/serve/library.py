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
from clip2video_pipe.manifests.store import Damaged
from clip2video_pipe.models.text import clean
from clip2video_pipe.pipeline.export import video_vectors
from clip2video_pipe.pipeline.plan import Plan, Step, embedding_stages
from clip2video_pipe.pipeline.report.strips import poster
from clip2video_pipe.stages import caption_embeddings
from clip2video_pipe.stages.frames import Frames
from clip2video_pipe.stages.metrics import query_ranks
from clip2video_pipe.stages.scoring import TEXT_TO_VIDEO
from clip2video_pipe.stages.vectors import Floats, Positions, joined
from clip2video_pipe.stages.video_embeddings import VideoEmbeddings

BLOCK = 65536  # vectors that are looked at at a time
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Video:
    """One of the videos that have a vector. `seconds` is None where nothing tells it.

    `playable`: whether its file is, or was, on this machine.
    """

    key: str
    video_id: str
    content: str
    start: float | None
    end: float | None
    seconds: float | None
    playable: bool

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
        playable = {item: not is_remote(os.fsdecode(source.path)) for item, source in plan.listing.sources.items()}
        self.videos = [
            Video(
                row["item"],
                name,
                row["video"],
                row["start"],
                row["end"],
                _seconds(row["start"], row["end"], lengths.get(row["video"])),
                playable[row["video"]],
            )
            for name in found.ids["video_id"].to_pylist()
            for row in [rows[name]]
        ]
        self.at = {video.key: n for n, video in enumerate(self.videos)}
        contents = pa.array([video.content for video in self.videos]).dictionary_encode().indices.to_numpy()
        self._first: Positions = np.unique(contents, return_index=True)[1][contents]  # of each with this content
        folders = pa.array([video.folder for video in self.videos]).dictionary_encode()
        self._folder = folders.indices.to_numpy()
        self._folders: list[str] = folders.dictionary.to_pylist()
        self._long = np.array([math.nan if video.seconds is None else video.seconds for video in self.videos])
        self._similarity = self._scored()

    @property
    def name(self) -> str:
        return self._plan.config.name

    @cached_property
    def folders(self) -> list[str]:
        """Of the videos, in order."""
        return sorted(self._folders)

    @property
    def posters(self) -> bool:
        """Whether there are any: frames were kept."""
        return self._plan.frames.kept

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
        """float32 [queries, videos]: the same to the bit for videos of the same content."""
        found = np.empty((len(queries), len(self.videos)), np.float32)
        for start in range(0, len(self.videos), BLOCK):
            stop = min(start + BLOCK, len(self.videos))
            found[:, start:stop] = queries @ self._vectors.read(start, stop).T
        return found[:, self._first]

    def wanted(self, folder: str | None, shortest: float | None, longest: float | None) -> Mask | None:
        """bool [videos]: which of them a filter leaves; None where it leaves all."""
        if folder is None and shortest is None and longest is None:
            return None
        mask = np.ones(len(self.videos), np.bool_)
        if folder is not None:
            within = [name == folder or name.startswith(f"{folder}/") for name in self._folders]
            mask &= np.array(within)[self._folder]
        if shortest is not None:
            mask &= self._long >= shortest  # false where nothing is known
        if longest is not None:
            mask &= self._long <= longest
        return mask

    def file(self, video: Video) -> Path | None:
        """The file that a video is in, or a part of; None where it is not on this machine, or has gone."""
        path = self._plan.listing.sources[video.content].path
        if is_remote(os.fsdecode(path)):
            return None
        found = Path(os.fsdecode(path))
        return found if found.is_file() else None

    def poster(self, video: Video) -> bytes | None:
        """JPEG of the middle one of its frames; None where frames were not kept, or have gone."""
        frames = self._plan.frames
        if not frames.kept:
            return None
        assert isinstance(frames.stage, Frames)
        try:
            return poster(frames, frames.stage.size, video.content)
        except Damaged:
            return None

    def captions(self, video: Video) -> list[dict[str, Any]]:
        """Its captions in the dataset, each with the rank that the video has for it, where that was scored."""
        captions = self._plan.listing.captions
        rows = captions.filter(pc.equal(captions["video_id"], video.video_id)).select(["item", "text"]).to_pylist()
        try:
            ranks = self._ranks([row["item"] for row in rows])
        except Damaged:
            ranks = {}
        return [{"text": row["text"], "rank": ranks.get(row["item"])} for row in rows if row["text"]]

    def _ranks(self, items: Sequence[str]) -> dict[str, float]:
        step = self._similarity
        if step is None:
            return {}
        there = [item for item in items if step.places[item].outcome.status == OK]
        places = [(step.places[item].shard, step.places[item].row) for item in there]
        columns = ["item", "direction", "better", "equal"]
        found: dict[str, float] = {}
        for table in read_rows(
            step.store, step.name, step.identity.key, places, columns=columns, chunk=max(1, len(there))
        ):
            some = table.filter(pc.equal(table["direction"], TEXT_TO_VIDEO))
            better, equal = (some[name].to_numpy() for name in ("better", "equal"))
            ranks = query_ranks(better, equal, self._plan.config.score.ties).tolist()
            found.update(zip(some["item"].to_pylist(), ranks, strict=True))
        return found

    def _scored(self) -> Step | None:
        """The step of the scores, if it is complete."""
        if self._plan.caption_embeddings is None or self._plan.caption_embeddings.manifest is None:
            return None
        scoring = self._plan.scoring()
        return scoring[0] if scoring and scoring[0].manifest else None

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
    """How long a video is: as its frames tell, else its window."""
    if known is not None and math.isfinite(known):
        return known
    return None if start is None or end is None else end - start
