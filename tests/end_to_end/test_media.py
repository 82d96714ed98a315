"""The real clips, most good, some hostile: every one is scored or accounted for."""

import json

import numpy as np
import pytest

from clip2video_pipe.manifests.manifest import load
from clip2video_pipe.manifests.store import Store

FAILURES = {"missing", "unreadable", "no-video-stream", "no-frames", "damaged"}


def test_a_folder_of_real_clips_is_embedded_or_accounted_for(project, media):
    code, out, err = project.command("run", "--json", "--set", f"dataset={{kind: folder, path: '{media}'}}")
    assert code in (0, 3), err
    stages = {stage["stage"]: stage for stage in json.loads(out)["stages"]}
    rows = load(Store(str(project.store)), "video_embeddings", stages["video_embeddings"]["manifest"]).table()
    assert rows.num_rows == 14
    for row in rows.to_pylist():
        if row["status"] == "ok":
            assert np.linalg.norm(row["global"]) == pytest.approx(1, abs=1e-5)
        else:
            assert row["error"] in FAILURES
            assert row["message"]
    coverage = json.loads(out)["metrics"]["coverage"]["videos"]
    assert coverage["asked"] == 14
    assert coverage["ok"] >= 13


def test_captions_of_real_clips_are_scored_at_full_size(project, media, full_size_weights):
    result = project.run(
        "--set", f"dataset={{kind: table, path: '{media}/captions.jsonl', root: '{media}'}}",
        "--set", f"model={{preset: vit-b-32, checkpoint: '{full_size_weights}'}}",
        "--set", "sampling.max_frames=12",
    )  # fmt: skip
    queries = len(
        [c for line in (media / "captions.jsonl").read_text().splitlines() for c in json.loads(line)["captions"]]
    )
    assert result["metrics"]["text_to_video"]["queries"] == queries == 24
    assert result["metrics"]["video_to_text"]["queries"] == 10
    assert result["metrics"]["coverage"]["captions"]["failed"] == 0
