"""Videos behind addresses: the same keys and figures as of the files, cached, and tried again when they were lost."""

import json

import pyarrow.parquet as pq
import pytest

from clip2video_pipe.manifests.manifest import load
from clip2video_pipe.manifests.store import Store

SIGNED = "?signature=hunter2"
ALL = {"videos": 6, "captions": 12, "similarity": 18}


@pytest.fixture
def lines(clips):
    return [json.loads(line) for line in (clips / "clips.jsonl").read_text().splitlines()]


@pytest.fixture
def served(web, clips, lines):
    """The clips on a web server, below a folder whose name has a blank."""
    for line in lines:
        web.files["/some clips/" + line["video"]] = (clips / line["video"]).read_bytes()
    return web


def addresses(served, lines, query=SIGNED):
    return [{**line, "video": served.url("some%20clips/" + line["video"], query)} for line in lines]


def keys_of(project, result, stage="frames"):
    return load(Store(str(project.store)), stage, result["stages"][stage]["manifest"]).items["item"].to_pylist()


def test_a_table_of_addresses_gives_what_the_files_give(project, served, lines, tmp_path):
    here = project.run()
    apart = project.elsewhere(tmp_path / "apart")
    there = apart.run(apart.rows(*addresses(served, lines)))
    assert keys_of(apart, there) == keys_of(project, here)
    assert there["metrics"] == here["metrics"]
    served.asked.clear()
    again = apart.run(apart.rows(*addresses(served, lines, SIGNED)))
    assert {stage["status"] for stage in again["stages"].values()} == {"cached"}
    assert served.ranges == ["bytes=0-0"] * 6, "a cached run asks whether they are the same still, no more"
    assert project.computed(project.rows(*addresses(served, lines, ""))) == ALL, "other ids, the same contents"


def test_nothing_secret_gets_into_the_store(project, served, lines):
    rows = [*addresses(served, lines), {"video": served.url("nothing.mp4", SIGNED)}]
    _, out, err = project.command("run", project.rows(*rows), "--set", f"dataset.root={served.url('', SIGNED)}")
    for path in project.store.rglob("*"):
        if path.suffix == ".parquet":
            assert "hunter2" not in text_of(path), path
        elif path.is_file():
            assert b"hunter2" not in path.read_bytes(), path
    assert "hunter2" not in out + err


def text_of(path):
    table = pq.read_table(path)
    return str([c.to_pylist() for n, c in zip(table.column_names, table.columns, strict=True) if n != "pictures"])


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_relative_paths_start_at_an_address(project, served, s3, clips, lines, scheme):
    for line in lines:
        s3.put(f"some clips/{line['video']}", (clips / line["video"]).read_bytes())
    root = served.url("some%20clips") if scheme == "http" else "s3://key:hunter2@bucket/some clips"
    here = project.run()
    there = project.run("--set", f"dataset.root={root}")
    assert {stage["status"] for stage in there["stages"].values()} == {"cached"} and there["metrics"] == here["metrics"]
    first = clips / lines[0]["video"]
    (project.folder / first.name).write_bytes(first.read_bytes())
    served.asked.clear()
    project.run("--set", f"dataset.root=[{project.folder}, {root}]")
    assert f"/some clips/{first.name}" not in [path for path, _ in served.asked], "the first root has it"


def test_a_prefix_of_a_bucket_is_a_folder_and_is_cut_into_windows(project, s3, clips, lines, tmp_path, decoded_here):
    films = tmp_path / "films"
    for number, name in enumerate(("a.mp4", "deep/b.mp4", ".hidden/c.mp4", "notes.txt")):
        data = (clips / lines[number]["video"]).read_bytes()
        (films / name).parent.mkdir(parents=True, exist_ok=True)
        (films / name).write_bytes(data)
        s3.put(f"films/{name}", data)
    segments = "segments: {length: 0.5, shortest: 0.1}"
    said = [f"dataset={{kind: folder, path: {path}, {segments}}}" for path in ("s3://bucket/films", films)]
    there = project.run("--set", said[0])
    assert there["metrics"]["coverage"]["videos"] == {"asked": 4, "ok": 4, "failed": 0, "errors": {}}
    assert project.computed("--set", said[1]) == {}, "the same windows of the same contents"


def test_a_connection_lost_under_way_is_tried_again_and_damage_is_not(project, served, lines, decoded_here):
    served.files["/noise.mp4"] = b"noise" * 1000
    rows = project.rows(*addresses(served, lines), {"video": served.url("noise.mp4")})
    served.statuses = [200] * 3 * 7 + [503] * 4  # listing asks three times for each file; then one is lost
    code, out, _ = project.command("run", "--json", rows, "--set", "run.max_failure_rate=1")
    coverage = json.loads(out)["metrics"]["coverage"]["videos"]
    assert (code, coverage["errors"]) == (0, {"unreadable": 2})
    _, out, _ = project.command("plan", "--json", rows)
    assert "1 of its items failed for a reason that may have passed" in out
    code, out, _ = project.command("run", "--json", rows, "--set", "run.max_failure_rate=1")
    stages = {stage["stage"]: stage["computed"] for stage in json.loads(out)["stages"]}
    assert json.loads(out)["metrics"]["coverage"]["videos"]["errors"] == {"unreadable": 1}
    assert stages["frames"] == stages["video_embeddings"] == 1
    code, out, _ = project.command("run", "--json", rows, "--set", "run.max_failure_rate=1")
    assert {stage["computed"] for stage in json.loads(out)["stages"]} == {0}


def test_a_server_that_is_away_when_files_are_listed_is_asked_by_the_next_run(project, served, lines):
    rows = project.rows(*addresses(served, lines))
    served.statuses = [503] * 1000
    code, out, _ = project.command("run", "--json", rows)
    assert (code, json.loads(out)["metrics"]["coverage"]["videos"]["errors"]) == (3, {"unreadable": 6})
    served.statuses.clear()
    assert project.run(rows)["metrics"]["coverage"]["videos"]["ok"] == 6


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("{kind: folder, path: 'https://u:hunter2@host/films'}", "dataset.path: 'https://host/films': a web server"),
        ("{kind: folder, path: 's3://bucket/*.mp4'}", "dataset.path: 's3://bucket/*.mp4': there are no globs"),
        ("{kind: folder, path: 's3://'}", "dataset.path: is 's3://...'; it has to name a bucket"),
        ("{kind: folder, path: 's3://bucket/nothing'}", "dataset.path: 's3://bucket/nothing': no such folder"),
        ("{kind: folder, path: 's3://bucket/a.mp4'}", "dataset.path: 's3://bucket/a.mp4': it is a file, not a folder"),
        ("{kind: table, path: 's3://bucket/t.csv?x=hunter2'}", "dataset.path: 's3://bucket/t.csv': has to be on this"),
        ("{kind: table, path: ROWS, root: ['s3://bucket', '.']}", "dataset.root: 's3://bucket' has to come last"),
        ("{kind: table, path: ROWS, root: 'http://u:hunter2@h:x/'}", "dataset.root: is 'http://...'; it has to name a"),
        ("{kind: table, path: ROWS}", "rows.jsonl:1: column 'video' is 'http://...'; it has to name a host"),
        (
            "{kind: msvd, annotations: 's3://bucket', videos: .}",
            "dataset.annotations: 's3://bucket': has to be on this",
        ),
        ("{kind: msvd, annotations: ., videos: 'http://h/x'}", "dataset.videos: 'http://h/x': a web server"),
    ],
)
def test_what_cannot_be_is_one_line(project, s3, dataset, expected):
    s3.put("a.mp4", b"x")
    project.rows({"video": "http://u:hunter2@"})
    said = dataset.replace("ROWS", str(project.folder / "rows.jsonl"))
    code, out, err = project.command("run", "--set", f"dataset={said}")
    assert code == 2 and expected in err and len(err.strip().splitlines()) == 1 and "hunter2" not in out + err
