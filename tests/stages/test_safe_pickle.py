"""Pickles of captions are data, and nothing in them is run."""

import os
import pickle

import pytest

from clip2video_pipe.stages.datasets import DatasetError
from clip2video_pipe.stages.datasets.safe_pickle import load_plain

PLAIN = {"a_1_2": [["a", "cat"], ["ein", "Kätzchen"]], "b_3_4": [1, 2.5, -(2**70), []]}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_of_any_protocol_is_read(tmp_path, protocol):
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps(PLAIN, protocol))
    assert load_plain(path) == PLAIN


class Runs:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_code_is_refused_and_not_run(tmp_path):
    path, mark = tmp_path / "evil.pkl", tmp_path / "was here"
    path.write_bytes(pickle.dumps({"a": Runs(f"touch '{mark}'")}))
    with pytest.raises(DatasetError, match=r"evil\.pkl: not a pickle of lists, dicts, strings and numbers"):
        load_plain(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"]r\xff\xff\xff\x7f.",  # a place in the memo that would take 16 GB
        pickle.dumps({1, 2}),
        pickle.dumps(("a", "tuple")),
        pickle.dumps([b"bytes"]),
        pickle.dumps({"a": ["b"]})[:-4],
        b"",
        b"no pickle",
    ],
)
def test_anything_else_is_one_line(tmp_path, data):
    path = tmp_path / "bad.pkl"
    path.write_bytes(data)
    with pytest.raises(DatasetError) as raised:
        load_plain(path)
    assert "\n" not in str(raised.value)
