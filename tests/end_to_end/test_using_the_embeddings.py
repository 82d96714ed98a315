"""Every block of docs/using-the-embeddings.md gives what the similarity stage has."""

import ast
import csv
import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from clip2video_pipe.pipeline.cli import main
from clip2video_pipe.stages.datasets.shapes import write_splits

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "using-the-embeddings.md").read_text()
CAPTION = "a square in orange is moving down"
LANCE = importlib.util.find_spec("lance") is not None


def _blocks():
    """The page's blocks of python: task, tool, code."""
    task = tool = ""
    for level, title, code in re.findall(r"^(##+) ([^\n]+)$|^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        if code:
            yield pytest.param(task, code, id=f"{task}, {tool}")
        elif level == "##":
            task = title
        else:
            tool = title


class Corpus(NamedTuple):
    """A folder with the files that the page speaks of, and the scores of the run that they were exported from."""

    folder: Path
    scores: dict[str, dict[str, float]]  # by caption_id, by video_id
    own: dict[str, str]  # caption_id to video_id
    asked: str  # caption_id
    duplicates: tuple[str, str]
    licensed: list[str]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, matrix):
    """The demo with 20 clips, one of them nearly again, and a video that cannot be read, though it has a caption."""
    folder = tmp_path_factory.mktemp("handed over")
    [table] = write_splits(folder / "clips", test=20)
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    names = [row["video"] for row in rows]
    rows.insert(3, {"video": "gone.mp4", "captions": ["nothing"]})
    rows.append({"video": names[0], "video_id": "again", "start": 0.1, "end": 2.2})
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (folder / "metadata.csv").open("w", newline="") as file:
        lines = [(name, "cc-by" if n % 2 else "unknown") for n, name in enumerate(names)]
        csv.writer(file).writerows([("video_id", "licence"), ("elsewhere.mp4", "cc-by"), *reversed(lines)])
    told = {"dataset.path": table, "dataset.root": folder / "clips", "store": folder / "artifacts"}
    words = [f"--set={name}={json.dumps(str(value))}" for name, value in told.items()]
    words = [*words, "--set=run.max_failure_rate=1"]
    config = str(ROOT / "conf" / "demo.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["run", config, *words, "--engine", "inline"]) == 0
        for line in re.findall(r"^clip2video-pipe (.+)$", PAGE, re.MULTILINE):
            command, named, *more = shlex.split(line)
            assert named == "conf/demo.yaml"
            if LANCE or ".lance" not in line:
                assert main([command, config, *more, *words]) == 0
    [run] = (folder / "artifacts" / "runs" / "demo").iterdir()
    captions = pq.read_table(folder / "captions.ids.parquet").to_pylist()
    texts = [(row["caption_id"], row["video_id"], row["text"]) for row in captions]
    [asked] = [caption for caption, _, text in texts if text == CAPTION]
    scores = matrix(folder / "artifacts", run)
    own = {caption: video for caption, video, _ in texts if caption in scores}
    return Corpus(folder, scores, own, asked, (names[0], "again"), names[1::2])


def top_5(corpus, videos=None):
    scores = corpus.scores[corpus.asked]
    return sorted(((v, scores[v]) for v in videos or scores), key=lambda one: -one[1])[:5]


def same_neighbours(found, expected):
    assert [video for video, _ in found] == [video for video, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], rtol=1e-4)


def the_duplicates(found, corpus):
    assert found == [corpus.duplicates]


def falling_from_the_pipelines_own(found, corpus):
    """The first loss is that of the scores as they are: minus the logarithm of the own video's softmax, on average."""
    losses = [
        np.logaddexp.reduce(list(corpus.scores[caption].values())) - corpus.scores[caption][video]
        for caption, video in corpus.own.items()
    ]
    assert len(losses) == 40
    assert found[0] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found[-1] < 0.9 * found[0]


CHECKS = {
    "Top 5 for a caption": lambda found, corpus: same_neighbours(found, top_5(corpus)),
    "Near-duplicates": the_duplicates,
    "Joined with your own metadata": lambda found, corpus: same_neighbours(found, top_5(corpus, corpus.licensed)),
    "Batches for training a head": falling_from_the_pipelines_own,
}


@pytest.mark.parametrize(("task", "code"), list(_blocks()))
def test_a_block(corpus, monkeypatch, task, code):
    if ".open_table(" in code and not LANCE:
        pytest.skip("pylance is not installed: it takes 230 MB")
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                pytest.importorskip(alias.name.partition(".")[0], reason="of the dev extra")
    monkeypatch.chdir(corpus.folder)
    namespace = {"__name__": "__main__"}
    exec(compile(code, "using-the-embeddings.md", "exec"), namespace)  # noqa: S102
    CHECKS[task](namespace["found"], corpus)


def test_every_tool_has_its_block():
    titles = " ".join(block.id for block in _blocks())
    assert all(tool in titles for tool in ("pyarrow", "NumPy", "DuckDB", "Polars", "LanceDB", "FAISS", "PyTorch"))
