"""Tables of videos and captions: every format says the same, and what is wrong is named with its place."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip2video_pipe.stages.datasets import Caption, DatasetError, Video
from clip2video_pipe.stages.datasets.table import read_table

ROOT = Path("/videos")
CSV = 'video,caption\na b.mp4,"one, quoted"\na b.mp4,two\nc.mp4,three\n'
ROWS = [{"video": "a b.mp4", "captions": ["one, quoted", "two"]}, {"video": "c.mp4", "caption": "three"}]


def write(path, rows):
    if path.suffix == ".csv":
        path.write_text(CSV)
    elif path.suffix == ".tsv":
        path.write_text('video\tcaption\na b.mp4\t"one, quoted"\na b.mp4\ttwo\nc.mp4\tthree\n')
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    else:
        pq.write_table(
            pa.Table.from_pylist(
                rows,
                pa.schema(
                    {
                        "video": pa.string(),
                        "captions": pa.list_(pa.string()),
                        "caption": pa.string(),
                    }
                ),
            ),
            path,
        )
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_says_the_same(tmp_path, suffix):
    dataset = read_table([str(write(tmp_path / f"a table{suffix}", ROWS))], [ROOT])
    assert dataset.videos == (Video("a b.mp4", ROOT / "a b.mp4"), Video("c.mp4", ROOT / "c.mp4"))
    assert dataset.captions == tuple(
        Caption(i, t) for i, t in [("a b.mp4", "one, quoted"), ("a b.mp4", "two"), ("c.mp4", "three")]
    )


def read_lines(tmp_path, *rows):
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return read_table([str(path)], [ROOT])


def test_segments_and_ids(tmp_path):
    dataset = read_lines(
        tmp_path,
        {"video": "a.mp4", "start": 2, "end": 5.5},
        {"video": "a.mp4", "start": 7},
        {"video": "b.mp4", "video_id": 7, "captions": []},
        {"video": "/elsewhere/c.mp4", "video_id": "c"},
    )
    assert [v.video_id for v in dataset.videos] == ["a.mp4#t=2.0,5.5", "a.mp4#t=7.0,", "7", "c"]
    assert dataset.videos[3].path == Path("/elsewhere/c.mp4")
    assert (dataset.videos[0].start, dataset.videos[0].end) == (2.0, 5.5)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"vidoe": "a.mp4"}], "t.jsonl:1: unknown column 'vidoe'; did you mean 'video'?"),
        ([{"caption": "x"}], "t.jsonl:1: column 'video' is None"),
        ([{"video": "a"}, {"video": 3}], "t.jsonl:2: column 'video' is 3"),
        ([{"video": "a", "captions": "x"}], "has to be a list"),
        ([{"video": "a", "captions": [3]}], "a caption is 3"),
        ([{"video": "a", "start": -1}], "column 'start' is -1"),
        ([{"video": "a", "start": 3, "end": 3}], "ends at 3.0 s, not after its start at 3.0 s"),
        ([{"video": "a", "end": "soon"}], "column 'end' is 'soon'"),
        ([{"video": "a\0b"}], "zero bytes"),
        ([{"video": "a", "video_id": "\ud800"}], "half characters"),
        ([{"video": "a", "video_id": "x"}, {"video": "b", "video_id": "x"}], "stands for /videos/a and for /videos/b"),
        (['{"video": "a"}', "{"], "t.jsonl:2: not JSON"),
        (["[1]"], "t.jsonl:1: is [1]"),
        ([], "has no rows"),
    ],
)
def test_mistakes_are_named(tmp_path, rows, expected):
    with pytest.raises(DatasetError) as caught:
        read_lines(tmp_path, *rows)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", "video,caption\na.mp4,one,two\n", "t.csv:2: has more fields"),
        ("t.csv", "video,caption\na.mp4\n", "t.csv:2: has fewer fields"),
        ("t.csv", "video,captions\na.mp4,x\n", "each caption is a row"),
        ("t.csv", "", "has no rows"),
        ("t.jsonl", b"\xff\xfe", "cannot be read"),
        ("t.parquet", b"not parquet", "cannot be read"),
        ("t.xlsx", b"", "ends in one of .csv .tsv .jsonl .parquet"),
    ],
)
def test_files_that_are_no_table_are_named(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError) as caught:
        read_table([str(path)], [ROOT])
    assert expected in str(caught.value)


def test_several_tables_and_roots(tmp_path):
    """Globs find tables; a relative path is looked for in each root, and stays in the first where it is nowhere."""
    for number in range(2):
        (tmp_path / f"root {number}").mkdir()
        (tmp_path / f"part-{number}.jsonl").write_text(json.dumps({"video": f"{number}.mp4", "caption": "words"}))
    (tmp_path / "root 1" / "1.mp4").write_bytes(b"")
    found = read_table([str(tmp_path / "part-*.jsonl")], [tmp_path / "root 0", tmp_path / "root 1"])
    assert [video.path.parent.name for video in found.videos] == ["root 0", "root 1"]
    with pytest.raises(DatasetError, match=r"dataset\.path: '.*none-\*\.csv' finds nothing"):
        read_table([str(tmp_path / "none-*.csv")], [tmp_path])
