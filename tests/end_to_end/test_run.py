"""From files to figures: what a run prints, writes and records."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from clip2video_pipe.manifests.manifest import load
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.models.presets import PRESETS, Variant


def tables(project, result):
    store = Store(str(project.store))
    return {
        name: load(store, name, stage["manifest"]).table()
        for name, stage in result["stages"].items()
        if name != "frames"
    }


def test_scores_are_those_of_the_model_on_the_stored_frames(project):
    """The matrix, from the stages' own tables, against the model called by hand."""
    import torch

    from clip2video_pipe.models.text import Tokenizer
    from clip2video_pipe.models.weights import load_model

    result = project.run("--set", "model.center_weight=0.3", "--set", "embed.precision=float32")
    stored = tables(project, result)
    model = load_model(PRESETS["tiny"], Variant(), clip=None, checkpoint=None, seed=0)
    store = Store(str(project.store))
    frames = load(store, "frames", result["stages"]["frames"]["manifest"]).table().to_pylist()
    by_video = {}
    for row in frames:
        pictures = np.frombuffer(b"".join(row["pictures"]), np.uint8).reshape(-1, 64, 64, 3)
        with torch.inference_mode():
            by_video[row["item"]] = model.embed_videos(torch.tensor(pictures), [len(pictures)], 4)
    captions = {row["caption_id"]: row["text"] for row in stored["captions"].to_pylist()}
    videos = {row["video_id"]: row["video"] for row in stored["videos"].to_pylist()}
    rows = [row for row in stored["similarity"].to_pylist() if row["direction"] == "text_to_video"]
    columns = {row["column"]: row["video_id"] for row in rows}
    assert len(rows) == 12
    for row in rows:
        ids, mask = Tokenizer(1024).batch([captions[row["query_id"]]], 32)
        with torch.inference_mode():
            text = model.embed_captions(torch.tensor(ids), torch.tensor(mask))
        for column, score in enumerate(row["scores"]):
            video = by_video[videos[columns[column]]]
            both = [float(t @ v.T) for t, v in zip(text, video, strict=True)]
            assert score == pytest.approx(100 * (0.3 * both[0] + 0.7 * both[1]), abs=1e-3)
        assert row["score"] == row["scores"][row["column"]]
        assert row["better"] == sum(score > row["score"] for score in row["scores"])
        assert row["top_scores"] == sorted(row["scores"], reverse=True)[:10]


def test_video_to_text_ranks_each_videos_best_caption(project):
    stored = tables(project, project.run())
    rows = stored["similarity"].to_pylist()
    texts = [row for row in rows if row["direction"] == "text_to_video"]
    for row in (row for row in rows if row["direction"] == "video_to_text"):
        best = {}
        for text in texts:
            score = text["scores"][row["column"]]
            best[text["video_id"]] = max(score, best.get(text["video_id"], -np.inf))
        assert row["score"] == pytest.approx(best[row["video_id"]], abs=1e-4)
        assert row["top_scores"] == pytest.approx(sorted(best.values(), reverse=True), abs=1e-4)


def test_metrics_and_coverage(project):
    result = project.run()
    metrics = json.loads((project.store / "runs" / "small").glob("*/metrics.json").__next__().read_text())
    assert metrics == result["metrics"]
    for direction, queries in (("text_to_video", 12), ("video_to_text", 6)):
        assert {"R@1", "R@5", "R@10", "R@50", "R@100", "MedianR", "MeanR", "MRR", "rsum"} < set(metrics[direction])
        assert metrics[direction]["queries"] == queries
        assert metrics[direction]["R@10"] == 100
    assert metrics["coverage"] == {
        "videos": {"asked": 6, "ok": 6, "failed": 0, "errors": {}},
        "captions": {"asked": 12, "ok": 12, "failed": 0, "errors": {}},
        "decoding": {},
        "gaps": {},
    }


def test_every_query_has_its_rank_and_its_best_wrong_match(project):
    result = project.run()
    [run] = (project.store / "runs" / "small").iterdir()
    ranks = pq.read_table(run / "ranks.parquet").to_pylist()
    found = {row["query_id"]: row for row in ranks if row["direction"] == "text_to_video"}
    assert len(found) == 12
    columns = pq.read_table(run / "columns.parquet")["video_id"].to_pylist()
    for row in tables(project, result)["similarity"].to_pylist():
        if row["direction"] == "text_to_video":
            order = sorted(range(6), key=lambda column, row=row: -row["scores"][column])
            own = columns.index(row["video_id"])
            wrong = next(column for column in order if column != own)
            said = found[row["query_id"]]
            assert said["rank"] == 1 + order.index(own)
            assert (said["score"], said["wrong_score"]) == (row["scores"][own], row["scores"][wrong])
            assert said["wrong_id"] == columns[wrong]
    assert {row["direction"] for row in ranks} == {"text_to_video", "video_to_text", "video_to_text_pool"}


def test_what_fails_is_recorded_and_never_dropped(project, clips, tmp_path):
    lines = [json.loads(line) for line in (clips / "clips.jsonl").read_text().splitlines()]
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    bad = [
        {"video": "nowhere.mp4", "captions": ["one", "two"]},
        {"video": str(tmp_path / "broken.mp4"), "caption": "three"},
        {"video": lines[0]["video"], "captions": [*lines[0]["captions"], "  "]},
    ]
    option = project.rows(*lines[1:], *bad)
    code, out, err = project.command("run", "--json", option)
    assert code == 3
    assert "2 of 8 videos failed" in err
    coverage = json.loads(out)["metrics"]["coverage"]
    assert coverage["videos"] == {"asked": 8, "ok": 6, "failed": 2, "errors": {"missing": 1, "unreadable": 1}}
    expected = {"empty-caption": 1, "missing": 2, "unreadable": 1}
    assert coverage["captions"] == {"asked": 16, "ok": 12, "failed": 4, "errors": expected}
    assert json.loads(out)["metrics"]["text_to_video"]["queries"] == 12
    gaps = {"caption-without-video": 3, "empty-caption": 1, "video-failed": 1, "video-without-file": 1}
    assert coverage["gaps"] == gaps
    missing = pq.read_table(json.loads(out)["run_dir"] + "/missing.parquet").to_pylist()
    assert {(row["problem"], row["id"]) for row in missing} >= {
        ("video-without-file", "nowhere.mp4"),
        ("video-failed", str(tmp_path / "broken.mp4")),
    }
    code, _, _ = project.command("run", "--json", option, "--set", "run.max_failure_rate=0.5")
    assert code == 0


def test_a_missing_file_that_comes_back_is_used(project, clips, tmp_path):
    lines = [json.loads(line) for line in (clips / "clips.jsonl").read_text().splitlines()]
    late = tmp_path / "late.mp4"
    option = project.rows(*lines[1:], {**lines[0], "video": str(late)})
    code, _, _ = project.command("run", "--json", option)
    assert code == 3
    shutil.copy(clips / lines[0]["video"], late)
    result = project.run(option)
    assert result["metrics"]["coverage"]["videos"]["ok"] == 6
    assert result["stages"]["frames"]["computed"] == 1


def test_videos_without_captions_are_only_columns(project, clips):
    lines = [json.loads(line) for line in (clips / "clips.jsonl").read_text().splitlines()]
    result = project.run(project.rows({"video": lines[0]["video"]}, *lines[1:]))
    assert result["metrics"]["text_to_video"]["queries"] == 10
    assert result["metrics"]["video_to_text"]["queries"] == 5
    [row] = [r for r in tables(project, result)["similarity"].to_pylist() if r["query_id"] == lines[1]["video"]]
    assert len(row["top_ids"]) == 5, "it has no captions to be found by"


def test_a_folder_gives_embeddings_and_no_scores(project, clips):
    result = project.run("--set", f"dataset={{kind: folder, path: '{clips}'}}")
    assert list(result["stages"]) == ["videos", "frames", "video_embeddings"]
    assert result["metrics"] == {
        "coverage": {"videos": {"asked": 6, "ok": 6, "failed": 0, "errors": {}}, "decoding": {}, "gaps": {}}
    }


def test_without_the_matrix_the_ranks_are_the_same(project):
    with_matrix = project.run()
    without = project.run("--set", "score.save_matrix=false")
    assert without["metrics"] == with_matrix["metrics"]
    assert tables(project, without)["similarity"]["scores"].null_count == 18


def test_zero_shot_clip_needs_no_alignment(project):
    result = project.run("--set", "model.temporal=mean", "--set", "model.alignment=none")
    assert tables(project, result)["video_embeddings"]["aligned"].null_count == 6
    assert result["metrics"]["text_to_video"]["queries"] == 12


def test_frames_are_raw_and_in_small_row_groups(project):
    result = project.run()
    [path] = list((project.store / "frames" / result["stages"]["frames"]["key"]).glob("*.parquet"))[:1]
    file = pq.ParquetFile(path)
    row = file.read_row_group(0).to_pylist()[0]
    assert {len(picture) for picture in row["pictures"]} == {64 * 64 * 3}
    assert len(row["pictures"]) == len(row["times"]) == 4
    for group in range(file.metadata.num_row_groups):
        assert file.metadata.row_group(group).total_byte_size <= 16 << 20


def test_a_clip_that_vanished_for_a_moment_is_tried_again(project, clips, tmp_path, monkeypatch):
    """Gone between the plan and its turn: a failure of the moment, which the next run does not take from the store."""
    from clip2video_pipe.stages import frames

    lines = [json.loads(line) for line in (clips / "clips.jsonl").read_text().splitlines()]
    real = frames.decode_apart

    def vanished(limits, path, *rest, **options):
        return real(limits, path + ".gone" if lines[2]["video"] in path else path, *rest, **options)

    monkeypatch.setattr(frames, "decode_apart", vanished)
    code, out, _ = project.command("run", "--json")
    assert code == 3
    assert json.loads(out)["metrics"]["coverage"]["videos"]["errors"] == {"missing": 1}
    monkeypatch.undo()
    result = project.run()
    assert result["stages"]["frames"]["computed"] == result["stages"]["video_embeddings"]["computed"] == 1
    assert result["metrics"]["coverage"]["videos"]["ok"] == 6


def test_names_that_are_not_text_are_decoded_and_named(project, clips, tmp_path):
    import os

    lines = [json.loads(line) for line in (clips / "clips.jsonl").read_text().splitlines()]
    folder = tmp_path / "odd names"
    folder.mkdir()
    for line, name in zip(lines, (b"a \xff b.mp4", b"new\nline.mp4", b"-q\"'.mp4"), strict=False):
        shutil.copy(clips / line["video"], folder / os.fsdecode(name))
        os.utime(folder / os.fsdecode(name), (0, 0))
    result = project.run("--set", f"dataset={{kind: folder, path: '{folder}'}}")
    assert result["metrics"]["coverage"]["videos"] == {"asked": 3, "ok": 3, "failed": 0, "errors": {}}
    ids = tables(project, result)["videos"]["video_id"].to_pylist()
    assert sorted(ids) == ["-q\"'.mp4", "a \\xff b.mp4", "new\nline.mp4"]


def test_frames_as_jpeg_give_nearly_the_same_vectors(project):
    """In a stage of their own, which shares nothing with the raw ones."""
    raw = project.run()
    jpeg = project.run("--set", "frames.encoding=jpeg", "--set", "frames.quality=90")
    assert jpeg["stages"]["frames"]["computed"] == jpeg["stages"]["video_embeddings"]["computed"] == 6
    vectors = [
        np.array([row["global"] for row in tables(project, result)["video_embeddings"].to_pylist()])
        for result in (raw, jpeg)
    ]
    cosines = (vectors[0] * vectors[1]).sum(-1)
    assert cosines.min() > 0.99 and not (vectors[0] == vectors[1]).all()
    code, _, error = project.command("run", "--set", "frames.quality=90")
    assert (code, "frames.quality" in error) == (2, True)


def test_scores_that_are_lost_end_the_run_and_are_computed_by_the_next(project, monkeypatch):
    """No query kills a worker: it is never the query's fault, so there is no failed row."""
    from clip2video_pipe.pipeline.engines.inline import InlineEngine

    real = InlineEngine.run

    def run(self, schedule, store):
        if any(job.stage.name == "similarity" for job in schedule.jobs):
            while True:
                schedule.lose(schedule.next("actor"), "its worker died (test)")
        real(self, schedule, store)

    monkeypatch.setattr(InlineEngine, "run", run)
    code, _, error = project.command("run")
    assert (code, "similarity: its worker died (test), 2 times" in error) == (1, True)
    monkeypatch.undo()
    result = project.run()
    assert result["metrics"]["video_to_text"]["queries"] == 6


def test_files_that_are_gaps_are_not_among_those_that_could_fail(project, clips, tmp_path):
    (tmp_path / "noise.mp4").write_bytes(b"noise" * 1000)
    good = json.loads((clips / "clips.jsonl").read_text().splitlines()[0])["video"]
    gone = [{"video": f"/none{n}.mp4", "caption": "a b"} for n in range(40)]
    rows = [{"video": str(path), "caption": "a b"} for path in (clips / good, tmp_path / "noise.mp4")]
    words = ("run", project.rows(*rows, *gone), "--allow-gaps", "--set", "run.max_failure_rate=0.1")
    assert project.command(*words)[0] == 3, "one of two is half of them"
