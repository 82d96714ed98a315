"""Pairs of videos that are alike: whether a caption scores higher for its own than for the other one."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.export import caption_vectors, video_vectors
from clip2video_pipe.pipeline.plan import Plan

LEVEL = 1e-5  # of a score: two that differ by less are the same, and their caption is half right


def score_pairs(plan: Plan, path: Path) -> dict[str, Any]:
    """How many pairs there are, captions of their videos, and per cent of those that score higher for their own.

    `path` is JSON lines, two video ids each: `{"video": ..., "other": ...}`. Raises RequestError.
    """
    pairs = _read(path)
    videos, captions = video_vectors(plan), caption_vectors(plan)
    at = {video_id: n for n, video_id in enumerate(videos.ids["video_id"].to_pylist())}
    if absent := [video_id for pair in pairs for video_id in pair if video_id not in at]:
        raise RequestError(f"pairs {str(path)!r}: no video {absent[0]!r} with a vector in {plan.config.name!r}")
    other = {one: two for pair in pairs for one, two in (pair, pair[::-1])}
    asked = [n for n, video_id in enumerate(captions.ids["video_id"].to_pylist()) if video_id in other]
    if not asked:
        raise RequestError(f"pairs {str(path)!r}: none of its videos has a caption")
    own = [captions.ids["video_id"][n].as_py() for n in asked]
    texts = captions.vectors.take(np.array(asked))
    scores = [
        np.einsum("ij,ij->i", texts, videos.vectors.take(np.array([at[video_id] for video_id in some])))
        for some in (own, [other[video_id] for video_id in own])
    ]
    difference = scores[0] - scores[1]
    level = np.abs(difference) <= LEVEL * np.abs(scores[0])
    right = np.where(level, 0.5, difference > 0)
    return {"pairs": len(pairs), "captions": len(asked), "right": 100 * float(right.mean())}


def _read(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise RequestError(f"pairs {str(path)!r}: {why}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            found.append((str(row["video"]), str(row["other"])))
        except (ValueError, TypeError, KeyError) as error:
            raise RequestError(
                f'pairs {str(path)!r}, line {number}: is not {{"video": an id, "other": an id}}'
            ) from error
    if not found:
        raise RequestError(f"pairs {str(path)!r}: is empty")
    return found
