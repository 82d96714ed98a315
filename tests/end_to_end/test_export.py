"""`export`: vectors whose dot products are the scores of the similarity stage."""

import importlib.util
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip2video_pipe.manifests import faults
from clip2video_pipe.pipeline import export as exporting

LANCE = importlib.util.find_spec("lance") is not None
FORMATS = [
    ".parquet",
    ".npy",
    pytest.param(".lance", marks=pytest.mark.skipif(not LANCE, reason="pylance is not installed: it takes 230 MB")),
]


def read(path):
    """The ids and the vectors of an exported file."""
    if path.suffix == ".npy":
        return pq.read_table(exporting.ids_path(path)), np.load(path)
    if path.suffix == ".lance":
        import lance

        table = lance.dataset(str(path)).to_table()
    else:
        table = pq.read_table(path)
    width = table.schema.field("vector").type.list_size
    vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(-1, width)
    return table.drop_columns(["vector"]), vectors


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("model", ["model.center_weight=0.3", "model.alignment=none"])
def test_dot_products_are_the_scores(project, matrix, tmp_path, suffix, model):
    result = project.run("--set", model)
    videos, captions = tmp_path / f"my videos{suffix}", tmp_path / "not there yet" / f"captions{suffix}"
    code, out, err = project.command("export", "--set", model, "--to", str(videos), "--captions", str(captions))
    assert code == 0, err
    assert f"{videos}: 6 videos, vectors of " in out
    (rows, v), (texts, c) = read(videos), read(captions)
    assert rows.column_names == ["video_id", "start", "end"]
    assert texts.column_names == ["caption_id", "video_id", "text"]
    assert v.dtype == c.dtype == np.float32
    expected = matrix(project.store, result["run_dir"])
    ids = rows["video_id"].to_pylist()
    scores = np.array([[expected[query][video] for video in ids] for query in texts["caption_id"].to_pylist()])
    assert scores.shape == (12, 6)
    assert np.abs(c @ v.T - scores).max() <= 1e-5 * np.abs(scores).max()
    if "alignment" not in model:
        norms = np.linalg.norm(v, axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-5)


def test_rows_are_in_the_order_of_the_dataset_and_failed_ones_are_counted(project, clips, tmp_path):
    lines = [json.loads(line) for line in (clips / "clips.jsonl").read_text().splitlines()]
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(b"noise" * 100)
    shutil.copy(clips / lines[4]["video"], tmp_path / "copy.mp4")
    only = project.rows({"video": lines[0]["video"]}, {"video": "gone.mp4"})
    project.run(only, "--set", "run.max_failure_rate=1")
    out = project.command("export", only, "--to", str(tmp_path / "one.parquet"))[1]
    assert ": 1 video, vectors of " in out and "; 1 video has no vector: 1 missing" in out
    said = [
        {"video": lines[4]["video"], "video_id": "one", "caption": "a"},
        {"video": str(noise), "video_id": "noise", "caption": "b"},
        {"video": lines[0]["video"], "video_id": "part", "start": 0.2, "end": 0.6},
        {"video": "gone.mp4", "video_id": "gone"},
        {"video": str(tmp_path / "copy.mp4"), "video_id": "twice"},
    ]
    rows = project.rows(*said)
    project.run(rows, "--set", "run.max_failure_rate=1")
    target = tmp_path / "videos.parquet"
    code, out, err = project.command("export", rows, "--to", str(target))
    assert code == 0, err
    assert out.strip().endswith("; 2 videos have no vector: 1 missing, 1 unreadable")
    ids, vectors = read(target)
    assert ids.to_pylist() == [
        {"video_id": "one", "start": None, "end": None},
        {"video_id": "part", "start": 0.2, "end": 0.6},
        {"video_id": "twice", "start": None, "end": None},
    ]
    assert (vectors[0] == vectors[2]).all()
    assert not np.allclose(vectors[0], vectors[1])


def test_a_scratch_file_in_place_of_memory_and_small_blocks_change_nothing(project, tmp_path, monkeypatch):
    project.run()
    project.command("export", "--to", str(tmp_path / "a.npy"))
    monkeypatch.setattr(exporting, "BLOCK", 4)
    real = exporting.read_vectors
    monkeypatch.setattr(exporting, "read_vectors", lambda *given, in_memory: real(*given, in_memory=False))
    for suffix in (".npy", ".parquet"):
        assert project.command("export", "--to", str(tmp_path / f"b{suffix}"))[0] == 0
        ids, vectors = read(tmp_path / f"b{suffix}")
        expected_ids, expected = read(tmp_path / "a.npy")
        assert ids.equals(expected_ids)
        assert (vectors == expected).all()


def test_nothing_is_replaced_unasked_and_nothing_half_written(project, tmp_path, monkeypatch):
    project.run()
    target = tmp_path / "videos.npy"
    assert project.command("export", "--to", str(target))[0] == 0
    before = target.read_bytes()
    code, _, err = project.command("export", "--to", str(target))
    assert code == 2
    assert "--force" in err
    target.unlink()
    assert project.command("export", "--to", str(target))[0] == 2, "its ids are there"
    assert project.command("export", "--to", str(target), "--force")[0] == 0
    assert target.read_bytes() == before

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(exporting.Vectors, "read", full)
    for suffix in (".npy", ".parquet"):
        code, _, err = project.command("export", "--to", str(tmp_path / f"videos{suffix}"), "--force")
        assert code == 1
        assert "no space left" in err
    assert target.read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
    assert not (tmp_path / "videos.parquet").exists()


def test_new_ids_are_never_beside_old_vectors(project, tmp_path, monkeypatch):
    project.run()
    target = tmp_path / "videos.npy"
    assert project.command("export", "--to", str(target))[0] == 0

    def hook(name):
        if name == "after videos.ids.parquet":
            raise KeyboardInterrupt

    monkeypatch.setattr(faults, "hook", hook)
    assert project.command("export", "--to", str(target), "--force")[0] == 130
    assert exporting.ids_path(target).exists() and not target.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--to", "{tmp}/videos.csv"], "has to end with one of .parquet, .npy, .lance"),
        (["--to", "s3://bucket/videos.npy"], "on this machine"),
        (["--to", "{tmp}/a.npy", "--captions", "{tmp}/a.npy"], "same file"),
        (["--to", "{tmp}/a.npy", "--captions", "{tmp}/folder.npy/../a.ids.parquet"], "same file"),
        (["--to", "{tmp}/folder.npy"], "is a folder"),
        (["--to", "{tmp}/a.npy", "--set", "sampling.max_frames=3"], "start a 'run' first"),
        (["--to", "{tmp}/a.npy", "--set", "name=x", "--set", "store={tmp}/none"], "never run in this store"),
    ],
)
def test_mistakes(project, tmp_path, words, expected):
    project.run()
    (tmp_path / "folder.npy").mkdir()
    code, _, err = project.command("export", *(word.replace("{tmp}", str(tmp_path)) for word in words))
    assert code == 2
    [line] = err.splitlines()
    assert expected in line


@pytest.mark.skipif(LANCE, reason="pylance is installed")
def test_without_pylance_the_way_to_it_is_told(project, tmp_path):
    project.run()
    code, _, err = project.command("export", "--to", str(tmp_path / "videos.lance"))
    assert code == 2
    assert "pip install 'clip2video-pipe[lance]'" in err


def test_no_captions_no_vectors_of_them(project, clips, tmp_path):
    folder = f"dataset={{kind: folder, path: '{clips}'}}"
    project.run("--set", folder)
    words = ["--set", folder, "--to", str(tmp_path / "a.parquet")]
    code, _, err = project.command("export", *words, "--captions", str(tmp_path / "b.parquet"))
    assert code == 2
    assert "no captions" in err
    code, out, _ = project.command("export", *words, "--json")
    assert code == 0
    said = json.loads(out)["videos"]
    assert (said["rows"], said["without"]) == (6, {})
    assert pa.types.is_fixed_size_list(pq.read_schema(tmp_path / "a.parquet").field("vector").type)
