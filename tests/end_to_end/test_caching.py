"""What a change recomputes, read from `run --json`."""

import json
import shutil
import subprocess
import sys

import pytest

ALL = {"videos": 6, "captions": 12, "frames": 6, "video_embeddings": 6, "caption_embeddings": 12, "similarity": 18}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("model.center_weight=0.3", {"similarity"}),
        ("sampling.max_frames=3", {"frames", "video_embeddings", "similarity"}),
        ("model.max_words=8", {"caption_embeddings", "similarity"}),
        ("model.seed=1", {"video_embeddings", "caption_embeddings", "similarity"}),
        ("embed.precision=float16", {"video_embeddings", "caption_embeddings", "similarity"}),
        ("score.top_k=3", {"similarity"}),
        ("run.shard_items=5", set()),
        ("embed.batch_frames=7", set()),
        ("run.max_failure_rate=0.5", set()),
        ("name=other", set()),
    ],
)
def test_a_changed_setting_recomputes_what_depends_on_it_alone(project, change, expected):
    assert project.computed() == ALL
    assert project.computed() == {}
    assert project.computed("--set", change) == {name: ALL[name] for name in expected}


def test_one_video_more_is_one_video_decoded(project, clips):
    lines = [json.loads(line) for line in (clips / "clips.jsonl").read_text().splitlines()]
    project.run(project.rows(*lines[:5]))
    computed = project.computed(project.rows(lines[5], *lines[:5]))
    scored = computed.pop("similarity")
    assert computed == {"videos": 1, "captions": 2, "frames": 1, "video_embeddings": 1, "caption_embeddings": 2}
    assert scored == 18


def test_a_renamed_or_copied_file_is_not_decoded_again(project, clips, tmp_path):
    lines = [json.loads(line) for line in (clips / "clips.jsonl").read_text().splitlines()]
    project.run()
    shutil.copy(clips / lines[0]["video"], tmp_path / "another name.mp4")
    result = project.run(project.rows(*lines, {**lines[0], "video": str(tmp_path / "another name.mp4")}))
    stages = result["stages"]
    assert stages["frames"]["items"] == stages["video_embeddings"]["items"] == 6
    assert [stages[name]["computed"] for name in ("frames", "video_embeddings", "caption_embeddings")] == [0, 0, 0]
    assert stages["videos"]["items"] == 7, "but both are ranked"
    assert result["metrics"]["text_to_video"]["queries"] == 14


def test_the_order_of_a_dataset_changes_nothing(project, clips):
    lines = [json.loads(line) for line in (clips / "clips.jsonl").read_text().splitlines()]
    first = project.run(project.rows(*lines))
    second = project.run(project.rows(*reversed(lines)))
    assert all(stage["computed"] == 0 for stage in second["stages"].values())
    assert second["metrics"] == first["metrics"]


def test_a_finished_run_loads_neither_torch_nor_ray(project):
    project.run()
    code = (
        "import sys; from clip2video_pipe.pipeline.cli import main; code = main(sys.argv[1:]);"
        "print(sorted({'torch', 'ray', 'av'} & sys.modules.keys()), file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "run", str(project.config), "--json", "--engine", "ray"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"
    assert {stage["status"] for stage in json.loads(done.stdout)["stages"]} == {"cached"}
