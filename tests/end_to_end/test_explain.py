"""`explain`: a video's way through every stage, what failed, and what would change it."""

import json
import shutil
import subprocess
import sys
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from clip2video_pipe.manifests import faults
from clip2video_pipe.manifests.schemas import FAILED
from clip2video_pipe.manifests.shards import Outcome, failed_table
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.events import RUNS, EventLog
from clip2video_pipe.stages.caption_embeddings import CaptionEmbeddings
from clip2video_pipe.stages.datasets.shapes import write_clips
from clip2video_pipe.stages.decoding.failures import DecodeError, Failure
from clip2video_pipe.stages.video_embeddings import VideoEmbeddings

SETTINGS = {
    "missing": "dataset.root",
    "unreadable": "mend the file",
    "no-video-stream": "take it out of the dataset",
    "no-frames": "sampling.keep_every (now 1)",
    "damaged": "sampling.damaged (now keep)",
    "timeout": "run.decode_timeout (now 600 s)",
    "out-of-memory": "run.decode_memory (now 4 GB)",
    "crashed": "sampling.decoder: decord (now av)",
}


@pytest.fixture
def lines(clips):
    return [json.loads(line) for line in (clips / "clips.jsonl").read_text().splitlines()]


def explained(project, video_id, *words):
    code, out, err = project.command("explain", video_id, "--json", *words)
    assert code == 0, err
    return json.loads(out)


def finished(log):
    events = map(json.loads, log.read_text().splitlines())
    return [{k: v for k, v in event.items() if k != "time"} for event in events if event["event"] == "finished"]


def by_stage(entries):
    return {entry["stage"]: entry for entry in entries}


def test_rows_ranks_and_times_are_where_it_says(project, lines):
    result = project.run("--set", "score.post=sinkhorn")
    ranks = pq.read_table(f"{result['run_dir']}/ranks.parquet")
    video_id = lines[2]["video"]
    found = explained(project, video_id, "--set", "score.post=sinkhorn")
    assert found["file"].endswith(video_id)
    assert len(found["captions"]) == 2
    sides = [found["stages"], *(caption["stages"] for caption in found["captions"])]
    names = (
        ["videos", "frames", "video_embeddings"],
        ["captions", "caption_embeddings"],
        ["captions", "caption_embeddings"],
    )
    for entries, expected in zip(sides, names, strict=True):
        assert [entry["stage"] for entry in entries] == [*expected, "similarity", "sinkhorn"]
        for entry in entries:
            row = pq.read_table(entry["path"]).slice(entry["row"], 1).to_pylist()[0]
            assert (row["item"], row["status"]) == (entry["item"], entry["status"]) == (entry["item"], "ok")
    frames = by_stage(found["stages"])["frames"]
    assert len(frames["times"]) == 4
    assert frames["computed"]["run"] == result["run_dir"]
    assert frames["computed"]["items"] == 2
    assert (frames["width"], frames["height"]) == (96, 64)
    queries = [(video_id, found["stages"]), *((c["caption_id"], c["stages"]) for c in found["captions"])]
    for query, entries in queries:
        for stage, method in (("similarity", ""), ("sinkhorn", "+sinkhorn")):
            entry = by_stage(entries)[stage]
            direction = pc.equal(ranks["direction"], entry["direction"] + method)
            [row] = ranks.filter(pc.and_(direction, pc.equal(ranks["query_id"], query))).to_pylist()
            assert entry["rank"] == row["rank"]
            assert entry["score"] == pytest.approx(row["score"])


def test_the_run_that_made_a_shard_is_named_not_those_that_found_it(project, lines):
    made_by = project.run()["run_dir"]
    [log] = project.store.glob("runs/small/*/events.jsonl")
    found_it = [event | {"shared": True, "ended": event["began"]} for event in finished(log)]
    with EventLog(Store(str(project.store)), (RUNS, "small", "20300101T000000.000000Z")) as later:
        for event in found_it:
            later.add(**event)
    stages = by_stage(explained(project, lines[0]["video"])["stages"])
    assert {stages[name]["computed"]["run"] for name in ("frames", "video_embeddings", "similarity")} == {made_by}
    log.unlink()
    stages = by_stage(explained(project, lines[0]["video"])["stages"])
    assert "written" in stages["frames"]["computed"], "by the time of the file, where no run says it"


@pytest.mark.parametrize("kept", ["true", "false"])
@pytest.mark.parametrize("failure", get_args(Failure))
def test_every_class_of_failure_names_what_would_change_it(project, lines, monkeypatch, failure, kept):
    from clip2video_pipe.stages import frames

    real = frames.decode_apart
    bad = lines[1]["video"]

    def decode(limits, path, segments, **how):
        if path.endswith(bad):
            raise DecodeError(failure, path, "it was made to")
        return real(limits, path, segments, **how)

    monkeypatch.setattr(frames, "decode_apart", decode)
    project.run("--set", "run.max_failure_rate=1", "--set", f"run.keep_frames={kept}")
    found = explained(project, bad, "--set", f"run.keep_frames={kept}")
    stages = by_stage(found["stages"])
    for name in ("frames", "video_embeddings", "similarity")[kept == "false" :]:
        assert (stages[name]["status"], stages[name]["error"]) == ("failed", failure)
        assert SETTINGS[failure] in stages[name]["advice"]
    assert by_stage(found["captions"][0]["stages"])["similarity"]["error"] == failure
    assert SETTINGS[failure] in by_stage(found["captions"][0]["stages"])["similarity"]["advice"]
    others = by_stage(explained(project, lines[2]["video"])["stages"])
    assert others["similarity"]["rank"] >= 1, "although a run would try the failed one again"
    code, out, _ = project.command("explain", bad)
    assert code == 0
    assert f"{failure}: " in out
    assert f"what would change it: {stages['video_embeddings']['advice']}" in out


@pytest.mark.parametrize(
    ("stage", "failure", "expected"),
    [
        (VideoEmbeddings, "timeout", "run.compute_timeout (now 3600 s); the next run tries again"),
        (VideoEmbeddings, "crashed", "embed.batch_frames (now 256); 'run --retry crashed' tries again"),
        (CaptionEmbeddings, "timeout", "run.compute_timeout (now 3600 s); the next run tries again"),
        (CaptionEmbeddings, "crashed", "the memory that workers have; 'run --retry crashed' tries again"),
    ],
)
def test_what_would_change_a_failure_after_decoding(project, lines, monkeypatch, stage, failure, expected):
    real = stage.process

    def process(self, loaded):
        rows = real(self, loaded)
        outcome = Outcome(FAILED, failure, "its worker died (it was started again)", failure == "timeout")
        failed = failed_table(rows.schema, rows["item"].to_pylist()[:1], outcome)
        return pa.concat_tables([failed, rows.slice(1)])

    monkeypatch.setattr(stage, "process", process)
    project.run("--set", "run.max_failure_rate=1")
    found = [explained(project, line["video"]) for line in lines]
    entries = [entry for video in found for part in (video, *video["captions"]) for entry in part["stages"]]
    failed = [entry for entry in entries if entry["status"] == "failed"]
    assert {stage.name, "similarity"} <= {entry["stage"] for entry in failed}
    assert all(entry["advice"].endswith(expected) for entry in failed if entry["error"] == failure)


def test_a_file_that_is_not_there_and_a_caption_of_nothing(project, lines):
    rows = project.rows(*lines, {"video": "gone.mp4", "captions": ["a dog", "\u0000 "]})
    project.run(rows, "--set", "run.max_failure_rate=1")
    found = explained(project, "gone.mp4", rows)
    stages = by_stage(found["stages"])
    assert stages["videos"]["error"] == "missing"
    assert "dataset.root" in stages["videos"]["advice"]
    assert stages["frames"]["status"] == stages["video_embeddings"]["status"] == "not asked"
    assert by_stage(found["captions"][1]["stages"])["captions"]["error"] == "empty-caption"


def test_a_stopped_run_and_none_at_all(project, lines, monkeypatch):
    def hook(name):
        if name.startswith("after frames/"):
            raise KeyboardInterrupt

    monkeypatch.setattr(faults, "hook", hook)
    assert project.command("run")[0] == 130
    monkeypatch.setattr(faults, "hook", None)
    first = by_stage(explained(project, lines[0]["video"])["stages"])
    last = by_stage(explained(project, lines[5]["video"])["stages"])
    assert first["frames"]["status"] == "ok"
    assert last["frames"]["status"] == first["video_embeddings"]["status"] == "missing"
    assert last["frames"]["advice"] == "'run' computes it"
    assert first["similarity"]["message"] == "waits for the embeddings"
    shutil.rmtree(project.store)
    nothing = explained(project, lines[0]["video"])
    assert {entry["status"] for entry in nothing["stages"]} == {"missing"}
    assert not project.store.exists(), "it writes nothing"


def test_frames_that_were_not_kept_and_copies(project, clips, lines, tmp_path):
    shutil.copy(clips / lines[0]["video"], tmp_path / "a copy.mp4")
    rows = project.rows(*lines, {"video": str(tmp_path / "a copy.mp4"), "video_id": "its copy"})
    project.run(rows, "--set", "run.keep_frames=false")
    found = explained(project, "its copy", rows, "--set", "run.keep_frames=false")
    assert by_stage(found["stages"])["frames"]["status"] == "not kept"
    assert found["same_content"] == [lines[0]["video"]]
    assert found["file"] == str(tmp_path / "a copy.mp4")


def test_windows(project, tmp_path):
    write_clips(tmp_path / "films", 1, 0, seconds=7.0, size=(96, 64), fps=10)
    [name] = [path.name for path in (tmp_path / "films").glob("*.mp4")]
    words = ["--set", f"dataset={{kind: folder, path: '{tmp_path}/films', segments: {{length: 3}}}}"]
    project.run(*words)
    windows = explained(project, name, *words)["windows"]
    assert windows == [f"{name}#t=0.0,3.0", f"{name}#t=3.0,6.0"]
    found = explained(project, windows[1], *words)
    assert (found["start"], found["end"]) == (3.0, 6.0)
    assert by_stage(found["stages"])["video_embeddings"]["status"] == "ok"
    out = project.command("explain", windows[1], *words)[1]
    assert ", from 3 s to 6 s" in out


def test_an_unknown_id_is_one_line_with_the_nearest(project, lines):
    code, out, err = project.command("explain", lines[0]["video"][:-1], "--json")
    assert (code, out) == (2, "")
    [line] = err.splitlines()
    assert repr(lines[0]["video"]) in line
    code, _, err = project.command("explain", "?")
    assert code == 2
    assert "it has 6, such as" in err


@pytest.mark.parametrize("command", ["explain", "export", "gc", "verify"])
def test_neither_torch_nor_ray_is_loaded(project, tmp_path, lines, command):
    project.run()
    words = {"explain": [lines[0]["video"]], "export": ["--to", str(tmp_path / "videos.npy")]}.get(command, [])
    code = (
        "import sys; from clip2video_pipe.pipeline.cli import main; code = main(sys.argv[1:]);"
        "print(sorted({'torch', 'ray', 'av'} & sys.modules.keys()), file=sys.stderr); sys.exit(code)"
    )
    line = [sys.executable, "-c", code, command, str(project.config), *words, "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr.strip().splitlines()[-1] == "[]"
    json.loads(done.stdout)
