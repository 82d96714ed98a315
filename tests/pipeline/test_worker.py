"""How the rows of a unit are handed to its stage."""

import pyarrow as pa
import pytest

from clip2video_pipe.pipeline.worker import Given


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("abcdef", ["abc", "def"]),
        ("aaaabc", ["aaaa", "bc"]),
        ("abbbcc", ["a", "bbb", "cc"]),
        ("abbccc", ["abb", "ccc"]),
        ("aaaaaa", ["aaaaaa"]),
        ("", []),
    ],
)
def test_rows_of_one_file_come_in_one_table(files, expected):
    given = Given(pa.table({"path": pa.array(list(files), pa.string())}), together="path")
    assert ["".join(table["path"].to_pylist()) for table in given.tables(None, 3)] == expected


def test_other_rows_come_so_many_at_a_time():
    given = Given(pa.table({"n": list(range(7))}))
    assert [table.num_rows for table in given.tables(None, 3)] == [3, 3, 1]
