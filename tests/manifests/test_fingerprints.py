"""A file's fingerprint is its content; it is read again only when size or time stamp say so."""

import os
from pathlib import Path

import pytest

from clip2video_pipe.manifests import fingerprints
from clip2video_pipe.manifests.addresses import Url
from clip2video_pipe.manifests.fingerprints import BLOCK, BLOCKS, Fingerprints, fingerprint
from clip2video_pipe.manifests.retries import LostConnection
from clip2video_pipe.manifests.store import Store


@pytest.mark.parametrize("size", [0, 1, BLOCK * BLOCKS, BLOCK * BLOCKS + 1, 5 * BLOCK * BLOCKS])
@pytest.mark.parametrize("extent", ["sampled", "full"])
def test_content_and_not_the_name_counts(tmp_path, size, extent):
    data = os.urandom(size)
    for name in ("one", "two words.mp4"):
        (tmp_path / name).write_bytes(data)
    one, two = (fingerprint(tmp_path / name, extent) for name in ("one", "two words.mp4"))
    assert one == two
    (tmp_path / "one").write_bytes(data + b"!")
    assert fingerprint(tmp_path / "one", extent) != two


@pytest.mark.parametrize("at", [0, -1])
def test_sampling_sees_both_ends(tmp_path, at):
    data = bytearray(3 * BLOCK * BLOCKS)
    path = tmp_path / "file"
    path.write_bytes(data)
    before = fingerprint(path, "sampled")
    data[at] ^= 1
    path.write_bytes(data)
    assert fingerprint(path, "sampled") != before


@pytest.fixture
def settled(monkeypatch):
    """As if every file had been written long ago."""
    monkeypatch.setattr(fingerprints, "SETTLED", -1.0)


def write(path, data):
    path.write_bytes(data)
    return path


def test_a_second_run_opens_no_file_that_has_not_changed(tmp_path, monkeypatch, settled):
    path = write(tmp_path / os.fsdecode(b"a \xff file"), b"content")
    store = Store(str(tmp_path / "store"))
    memory = Fingerprints(store)
    [first] = memory.of([path], "full")
    memory.save()
    monkeypatch.setattr(fingerprints, "fingerprint", lambda *_: pytest.fail("it was opened"))
    assert Fingerprints(store).of([path], "full") == [first]


def test_a_changed_file_is_read_again(tmp_path, settled):
    path = write(tmp_path / os.fsdecode(b"a \xff file"), b"content")
    memory = Fingerprints(Store(str(tmp_path / "store")))
    [first] = memory.of([path], "full")
    path.write_bytes(b"CONTENT")
    assert memory.of([path], "full") != [first]


def test_a_replaced_file_that_brings_its_time_stamp_is_read_again(tmp_path, settled):
    path = write(tmp_path / "file", b"one")
    memory = Fingerprints(Store(str(tmp_path / "store")))
    [first] = memory.of([path], "full")
    stamp = path.stat().st_mtime_ns
    os.utime(write(tmp_path / "other", b"two"), ns=(stamp, stamp))
    (tmp_path / "other").replace(path)
    assert memory.of([path], "full") != [first]


def test_a_file_that_was_just_written_is_not_trusted_to_stay(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    stamp = path.stat().st_mtime_ns
    memory = Fingerprints(Store(str(tmp_path / "store")))
    [first] = memory.of([path], "full")
    path.write_bytes(b"two")
    os.utime(path, ns=(stamp, stamp))
    assert memory.of([path], "full") != [first]


def test_files_that_cannot_be_read_are_answers_not_crashes(tmp_path):
    memory = Fingerprints(Store(str(tmp_path / "store")))
    os.mkfifo(tmp_path / "pipe")
    missing, *others = memory.of([tmp_path / "nothing", tmp_path, tmp_path / "pipe", Path("/dev/zero")], "full")
    assert isinstance(missing, FileNotFoundError)
    assert all(isinstance(other, OSError) for other in others)


def test_a_memory_that_cannot_be_kept_costs_nothing_else(tmp_path, settled):
    memory = Fingerprints(Store(str(tmp_path / "store")))
    memory.of([write(tmp_path / "file", b"content")], "full")
    (tmp_path / "store" / fingerprints.NAME / "in the way").mkdir(parents=True)
    memory.save()


def test_a_damaged_memory_is_forgotten(tmp_path, settled):
    store = Store(str(tmp_path / "store"))
    store.write(b"not parquet", fingerprints.NAME)
    path = write(tmp_path / os.fsdecode(b"a \xff file"), b"content")
    memory = Fingerprints(store)
    assert memory.of([path], "full") == [fingerprint(path, "full")]
    memory.save()
    assert Fingerprints(store).of([path], "full") == [fingerprint(path, "full")]


@pytest.mark.parametrize("size", [0, 5, BLOCK * BLOCKS, 5 * BLOCK * BLOCKS + 1])
@pytest.mark.parametrize("extent", ["sampled", "full"])
def test_a_remote_file_has_the_fingerprint_of_the_same_bytes_here(tmp_path, web, s3, size, extent):
    data = os.urandom(size)
    web.files["/x"] = data
    (tmp_path / "x").write_bytes(data)
    s3.put("x", data)
    here = fingerprint(tmp_path / "x", extent)
    assert fingerprint(Url(web.url("x")), extent) == here == fingerprint(Url("s3://bucket/x"), extent)
    web.knows_ranges = False
    assert fingerprint(Url(web.url("x")), extent) == here


def test_sampling_reads_no_more_of_a_remote_file_than_its_samples(web):
    web.files["/x"] = os.urandom(50 * BLOCK * BLOCKS)
    fingerprint(Url(web.url("x")), "sampled")
    spans = [span.removeprefix("bytes=").split("-") for span in web.ranges]
    assert sum(int(stop) - int(start) + 1 for start, stop in spans) == 1 + BLOCK * BLOCKS


def test_a_remote_file_is_remembered_by_its_mark_and_nothing_secret_is(web, tmp_path):
    web.files |= {"/x": b"content", "/y": b"content"}
    urls = [Url(web.url("x", "?signature=secret")), Url(web.url("y"))]
    memory = Fingerprints(Store(str(tmp_path / "store")))
    first = memory.of(urls, "full")
    memory.save()
    assert b"secret" not in (tmp_path / "store" / fingerprints.NAME).read_bytes()
    web.asked.clear()
    again = Fingerprints(Store(str(tmp_path / "store")))
    assert again.of(urls, "full") == first and len(web.asked) == 2, "one request a file"
    web.files["/x"] = b"CONTENT"
    [other, same] = again.of(urls, "full")
    assert other != first[0] and same == first[1]
    web.says_etag = False
    assert again.of(urls, "full") == [other, same]
    web.asked.clear()
    again.of(urls, "full")
    assert len(web.asked) > 2, "without a mark it is read each time"


def test_a_remote_file_that_cannot_be_read_is_an_answer_and_forgotten(web, tmp_path):
    memory = Fingerprints(Store(str(tmp_path / "store")))
    url = Url(web.url("x"))
    assert isinstance(memory.of([url], "full")[0], FileNotFoundError)
    web.statuses = [503] * 4
    assert isinstance(memory.of([url], "full")[0], LostConnection)
    web.files["/x"] = b"content"
    assert isinstance(memory.of([url], "full")[0], str)
