"""Runs side by side."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from clip2video_pipe.pipeline.cli import main


@pytest.fixture
def two(project, capsys):
    """Folders of two runs with other weights, and a function that compares."""
    folders = [project.run("--set", f"model.seed={seed}")["run_dir"] for seed in (0, 1)]

    def compare(*words):
        capsys.readouterr()
        code = main(["compare", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return folders, compare


def figures_of(folder):
    return json.loads((Path(folder) / "metrics.json").read_text())


def test_figures_are_those_of_the_runs(two):
    folders, compare = two
    code, out, _ = compare(*folders, "--json")
    assert code == 0
    found = json.loads(out)
    metrics = [figures_of(folder) for folder in folders]
    for direction, said in found["directions"].items():
        for name, values in said["figures"].items():
            assert values == [m[direction][name] for m in metrics]
    assert set(found["directions"]) == {"text_to_video", "video_to_text", "video_to_text_pool"}
    [pair] = found["directions"]["text_to_video"]["against_first"]
    assert (pair["shared"], pair["only_in_first"], pair["only_in_other"]) == (12, 0, 0)
    assert 0 < pair["p"] <= 1


def test_people_see_differences_and_how_sure_they_are(two, monkeypatch):
    folders, compare = two
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = compare(*folders)
    assert code == 0
    assert "text to video" in out
    first, second = (figures_of(folder)["text_to_video"]["MeanR"] for folder in folders)
    line = next(line.split() for line in out.splitlines() if line.split()[:1] == ["MeanR"])
    sign = "+" if second >= first else "-"
    assert line == ["MeanR", f"{first:.1f}", f"{second:.1f}", f"({sign}{abs(second - first):.1f})"]
    assert "over 12 queries" in out
    assert max(map(len, out.splitlines())) <= 120


def test_a_config_stands_for_its_last_run(two, project):
    folders, compare = two
    code, out, err = compare(folders[0], str(project.config), "--json")
    assert code == 0, err
    assert [run["path"] for run in json.loads(out)["runs"]] == folders


def test_only_shared_queries_are_tested(two, tmp_path):
    """One run loses its captions of one video, the other has them under another id: nothing of these is paired."""
    folders, compare = two
    table = pq.read_table(f"{folders[1]}/ranks.parquet")
    names = table["video_id"].to_pylist()
    other = tmp_path / "other"
    shutil.copytree(folders[1], other)
    pq.write_table(table.filter(pc.not_equal(table["video_id"], names[0])), other / "ranks.parquet")
    _, out, _ = compare(folders[0], str(other), "--json")
    [pair] = json.loads(out)["directions"]["text_to_video"]["against_first"]
    assert (pair["shared"], pair["only_in_first"], pair["only_in_other"]) == (10, 2, 0)
    renamed = table.set_column(1, "query_id", pa.array([f"x{n}" for n in range(len(table))]))
    pq.write_table(renamed.cast(table.schema), other / "ranks.parquet")
    code, out, _ = compare(folders[0], str(other))
    assert code == 0
    assert "shares no query with" in out


def test_what_cannot_be_compared_is_one_line(two, project, tmp_path, clips):
    folders, compare = two
    folder = project.run("--set", f"dataset={{kind: folder, path: '{clips}'}}")["run_dir"]
    (tmp_path / "empty").mkdir()
    for words, said in (
        ([folders[0]], "one run is nothing to compare"),
        ([folders[0], folders[0]], "the same run twice"),
        ([folders[0], "/nowhere"], "'/nowhere' is neither a run's folder nor a config file"),
        ([folders[0], str(tmp_path / "empty")], "is no finished run: it has no metrics.json"),
        ([folders[0], folder], "has no ranks.parquet: its dataset has no captions"),
    ):
        code, _, err = compare(*words)
        assert code == 2
        assert said in err
        assert len(err.strip().splitlines()) == 1
