"""`search`: the videos that score highest for a text or a video, by the scores of the similarity stage."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clip2video_pipe.manifests.manifest import load
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline import search as searching
from clip2video_pipe.stages import vectors

TOLERANCE = 1e-5  # of the largest score: the same products, in another order of addition


def hits(project, *words):
    """The hits of each query: (video_id, score), best first."""
    code, out, err = project.command("search", *words, "--json")
    assert code == 0, err
    return [[(hit["video_id"], hit["score"]) for hit in query["hits"]] for query in json.loads(out)["queries"]]


def matrix(project, result):
    """The text of each caption, and its row of the matrix: score by video_id."""
    store = Store(str(project.store))
    tables = [load(store, n, result["stages"][n]["manifest"]).table() for n in ("captions", "similarity")]
    texts = dict(zip(*(tables[0][name].to_pylist() for name in ("caption_id", "text")), strict=True))
    ids = pq.read_table(f"{result['run_dir']}/columns.parquet")["video_id"].to_pylist()
    rows = [row for row in tables[1].to_pylist() if row["direction"] == "text_to_video"]
    return [texts[row["query_id"]] for row in rows], [dict(zip(ids, row["scores"], strict=True)) for row in rows]


@pytest.mark.parametrize(
    "settings",
    [["model.center_weight=0.3", "model.max_words=5"], ["model.alignment=none"]],  # most captions have more words
    ids=["captions that are cut", "no alignment"],
)
def test_scores_are_those_of_the_matrix_whatever_the_blocks(project, tmp_path, monkeypatch, settings):
    words = [word for setting in settings for word in ("--set", setting)]
    texts, expected = matrix(project, project.run(*words))
    monkeypatch.setattr(vectors, "BLOCK", 1)
    monkeypatch.setattr(searching, "_at_once", lambda memory, corpus: 5)
    queries = tmp_path / "queries.txt"
    queries.write_text("\n".join(text.upper() for text in texts), encoding="utf-8")
    found = hits(project, "--from", str(queries), "-k", "4", "--set", "score.memory=16MiB", *words)
    assert len(found) == len(texts) == 12
    largest = max(abs(score) for row in expected for score in row.values())
    for query, row in zip(found, expected, strict=True):
        best = sorted(row.values(), reverse=True)[:4]
        np.testing.assert_allclose([score for _, score in query], best, rtol=0, atol=TOLERANCE * largest)
        np.testing.assert_allclose([row[video] for video, _ in query], best, rtol=0, atol=TOLERANCE * largest)


def test_a_video_finds_itself_and_its_copy_by_products_of_vectors(project, clips, tmp_path):
    lines = [json.loads(line) for line in (clips / "clips.jsonl").read_text().splitlines()]
    shutil.copy(clips / lines[4]["video"], tmp_path / "copy.mp4")
    (tmp_path / "noise.mp4").write_bytes(b"noise" * 100)
    rows = project.rows(
        {"video": lines[0]["video"], "video_id": "part", "start": 0.2, "end": 0.6},
        {"video": lines[4]["video"], "video_id": "one"},
        {"video": str(tmp_path / "noise.mp4"), "video_id": "noise"},
        {"video": lines[1]["video"], "video_id": "other"},
        {"video": str(tmp_path / "copy.mp4"), "video_id": "twice"},
    )
    project.run(rows, "--set", "run.max_failure_rate=1")  # no captions: nothing is scored
    project.command("export", rows, "--to", str(tmp_path / "v.npy"))
    v = np.load(tmp_path / "v.npy")
    expected = dict(zip(["part", "one", "other", "twice"], (v @ v[1]).tolist(), strict=True))
    [found] = hits(project, rows, "--video", str(clips / lines[4]["video"]))
    assert [video for video, _ in found[:2]] == ["one", "twice"]
    assert dict(found) == pytest.approx(expected, abs=1e-5) and found[0][1] == pytest.approx(1, abs=1e-5)
    code, out, _ = project.command("search", rows, "a red box", "-k", "9")
    assert code == 0
    head, *table = out.splitlines()
    assert head.split() == ["score", "video", "segment"]
    [part] = [line for line in table if " part " in line]
    assert len(table) == 4 and part.endswith("from 0.2 s to 0.6 s")
    code, out, err = project.command("search", rows, "--video", str(tmp_path / "noise.mp4"))
    assert (code, out) == (2, "") and "noise.mp4" in err and len(err.splitlines()) == 1


def test_a_folder_is_searched_as_its_last_run_saw_it_also_without_its_files(project, clips, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(clips, folder)
    words = ["--set", f"dataset={{kind: folder, path: '{folder}'}}"]
    code, _, err = project.command("search", "a red box", *words)
    [line] = err.splitlines()
    assert code == 2 and "never run in this store; start a 'run' first" in line
    project.run(*words)
    found = hits(project, "a red box", *words, "--set", "name=another")  # it has no run, but its vectors are there
    assert len(found[0]) == 6
    for clip in folder.glob("*.mp4"):
        clip.unlink()
    assert hits(project, "a red box", *words) == found
    assert project.command("search", "a red box", *words, "--set", "sampling.max_frames=3")[0] == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "give one of"),
        (["a", "--video", "b.mp4"], "give one of"),
        (["a", "-k", "0"], "-k is 0"),
        ([" \n"], "is empty"),
        (["\udcff"], "is not UTF-8"),
        (["--video", ""], "is empty"),
        (["--from", "{folder}/none.txt"], "No such file"),
        (["--from", "{folder}/empty.txt"], "is empty"),
        (["--from", "{folder}/blank.txt"], "blank.txt', line 2: is empty"),
        (["--from", "{folder}/latin.txt"], "is not UTF-8"),
        (["a"], "start a 'run' first"),
    ],
)
def test_mistakes_are_one_line(project, tmp_path, words, why):
    for name, data in (("empty", b""), ("blank", b"a box\n \na ring\n"), ("latin", "café".encode("latin-1"))):
        (tmp_path / f"{name}.txt").write_bytes(data)
    code, out, err = project.command("search", *(word.replace("{folder}", str(tmp_path)) for word in words))
    assert (code, out) == (2, "")
    [line] = err.splitlines()
    assert why in line


def test_this_process_loads_neither_torch_nor_ray(project, tmp_path):
    project.run()
    code = (
        "import sys; from clip2video_pipe.pipeline.start import main; code = main();"
        "print(sorted({'torch', 'ray', 'av'} & sys.modules.keys()), file=sys.stderr); sys.exit(code)"
    )
    line = [sys.executable, "-c", code, "search", str(project.config), "a box", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr.splitlines() == ["[]"]
    assert json.loads(done.stdout)["videos"] == 6


@pytest.mark.parametrize("kept", ["true", "false"])
def test_a_page_shows_what_was_found(project, tmp_path, kept):
    words = ["--set", f"run.keep_frames={kept}"]
    project.run(*words)
    page, text = tmp_path / "found it.html", "<b>a red circle</b>"
    [found] = hits(project, text, "-k", "3", "--html", str(page), *words)
    said = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;a red circle&lt;/b&gt;" in said and "<b>" not in said and "http://" not in said
    assert all(f"{rank}. with {score:.2f}" in said and name in said for rank, (name, score) in enumerate(found, 1))
    assert said.count("data:image/jpeg;base64,") == (3 if kept == "true" else 0)
    assert ("they were not kept" in said) == (kept == "false")


def test_a_page_that_cannot_be_written_is_one_line(project, tmp_path):
    project.run()
    (tmp_path / "a file").write_text("")
    code, _, err = project.command("search", "a circle", "--html", str(tmp_path / "a file" / "page.html"))
    assert code == 2 and "--html" in err and len(err.splitlines()) == 1
    for name, why in ((str(tmp_path), "is a folder"), ("\udcff.html", "not UTF-8")):
        code, _, err = project.command("search", "a circle", "--html", name)
        assert code == 2 and why in err and len(err.splitlines()) == 1


def test_a_name_that_is_not_utf_8_is_a_video_as_any_other(project, clips, tmp_path):
    project.run()
    path = str(tmp_path / "\udcff.mp4")
    shutil.copy(sorted(clips.glob("*.mp4"))[0], path)
    [[(name, score), *_]] = hits(project, "--video", path)
    assert name == sorted(clips.glob("*.mp4"))[0].name and score == pytest.approx(1, abs=1e-4)
    code, _, err = project.command("search", "--video", str(tmp_path / "\udcfe.mp4"))
    assert code == 2 and "no such file" in err


def test_a_run_that_does_not_say_what_it_was_of_is_passed_over(project):
    [found] = [project.run()["run_dir"]]
    (Path(found) / "config.json").write_text("half a line")
    assert project.command("search", "a circle")[0] == 0


def test_files_of_the_folder_that_it_is_started_in_are_not_run(project, tmp_path):
    project.run()
    (tmp_path / "random.py").write_text("raise SystemExit('this was run')")
    start = "import sys; from clip2video_pipe.pipeline.start import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", start, "search", str(project.config), "a box"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and len(done.stdout.splitlines()) == 7
