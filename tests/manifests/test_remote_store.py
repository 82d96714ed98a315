"""A store in a bucket: objects appear whole, the first of two stays, and trouble that passes is not seen."""

import io
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from clip2video_pipe.manifests import buckets, keys
from clip2video_pipe.manifests.retries import LostConnection, Rejected
from clip2video_pipe.manifests.schemas import QUERY_BANK
from clip2video_pipe.manifests.shards import WELL, ShardWriter, check_shard, outcome_table, read_shard
from clip2video_pipe.manifests.store import Damaged, Store, StoreError

KINDS = ["500", "503", "429", "drop", "break", "slow"]
BIG = os.urandom(100_000)


@pytest.fixture(params=["s3", "gs"])
def store(s3, request):
    return Store(f"{request.param}://bucket/a prefix")


def test_an_object_whose_writer_fails_is_never_there(store, s3):
    assert not store.local
    with pytest.raises(RuntimeError), store.writing("folder", "object") as sink:
        sink.write(b"half")
        raise RuntimeError
    assert store.read("folder", "object") is None and s3.keys() == []
    store.write(b"whole", "folder", "object")
    assert store.read("folder", "object") == b"whole" and s3.keys() == ["a prefix/folder/object"]
    [stamp] = store.stamps("folder").values()
    assert stamp == store.stamp("folder", "object") and (stamp.size, stamp.modified) == (5, None)
    store.write(b"other", "folder", "object")
    assert store.stamp("folder", "object") != stamp, "of the same size, and another"
    assert store.folders() == ["folder"] and store.leftovers("folder") == {} and store.folders("nothing") == []
    with store.open("folder", "object") as file:
        assert file.seek(-2, io.SEEK_END) == 3 and file.read() == b"er"
    store.remove("folder", "object")
    store.remove("folder", "object")
    assert store.stamp("folder", "object") is None and store.stamps("folder") == {}
    with pytest.raises(FileNotFoundError):
        store.open("folder", "object")


@pytest.mark.parametrize("good", [True, False])
def test_of_two_writers_the_second_asks(store, good):
    asked = []

    def keep():
        asked.append(store.read("x"))
        return good

    first, second = [], []
    with store.writing("x", keep=keep, took=second.append) as sink:
        sink.write(b"second")
        with store.writing("x", keep=lambda: pytest.fail("nothing was there"), took=first.append) as other:
            other.write(b"first")
        assert store.read("x") == b"first"
        assert first == list(store.stamps().values())
    assert second == ([] if good else [store.stamp("x")])
    assert asked == [b"first"] and store.read("x") == (b"first" if good else b"second")


def test_a_writer_that_did_not_hear_that_it_was_done_finds_its_own(s3):
    store, asked = Store("s3://bucket"), []
    s3.faults = [s3.Fault("lost", "PUT", times=1)]
    with store.writing("x", keep=lambda: asked.append(store.read("x")) is None) as sink:
        sink.write(b"ours")
    assert asked == [b"ours"] == [store.read("x")] and s3.hits["lost"] == 1


def test_more_than_a_page_is_listed(s3):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: s3.put(f"folder/{number}", b"x"), range(1005)))
    store = Store("s3://bucket")
    s3.faults = [s3.Fault("500", "GET .*continuation-token", times=2)]  # in the middle of the list
    assert store.stamps("folder").keys() == {str(number) for number in range(1005)} and s3.hits["500"] == 2
    assert len(buckets.Bucket(store._place).below("folder")) == 1005


@pytest.mark.parametrize("kind", KINDS)
def test_trouble_that_passes_is_not_seen(s3, monkeypatch, kind):
    monkeypatch.setattr(buckets, "PATIENCE", 0.3)
    store = Store("s3://bucket/prefix")
    store.write(BIG, "folder", "object")

    def spoilt(at):
        s3.faults = [s3.Fault(kind, at, times=2, seconds=0.6)]
        return s3.hits[kind]

    for at, act, expected in (
        ("GET .*object", lambda: store.read("folder", "object"), BIG),
        ("HEAD", lambda: store.stamp("folder", "object").size, len(BIG)),
        ("list-type", lambda: store.stamps("folder").keys(), {"object"}),
        ("PUT", lambda: store.write(BIG, "other"), None),
        ("DELETE", lambda: store.remove("other"), None),
    ):
        if kind == "break" and at != "GET .*object" and at != "list-type":
            continue  # there is no body to break
        before = spoilt(at)
        assert act() == expected and s3.hits[kind] == before + 2, at


def table(items):
    return outcome_table(QUERY_BANK, items, [WELL] * len(items), {})


def shard(store, items=("a", "b")):
    key = "0" * keys.KEY_LENGTH
    with ShardWriter(store, "frames", key, items, QUERY_BANK) as writer:
        writer.write(table(items))
    return store, "frames", key, writer.shard.name


@pytest.mark.parametrize("kind", ["503", "drop", "403"])
@pytest.mark.parametrize("after", [0, 1])
def test_what_is_out_of_reach_is_never_taken_for_damaged(s3, kind, after, monkeypatch):
    where = shard(Store("s3://bucket"))
    monkeypatch.setattr("clip2video_pipe.manifests.remote.BLOCK", 256)  # so that it takes several requests
    s3.faults = [s3.Fault(kind, "(GET|HEAD) .*parquet", times=1e9, after=after)]
    for look in (read_shard, check_shard):
        with pytest.raises(
            StoreError, match=r"^shard s3://bucket/frames/.* cannot be read: (the conn|the serv)"
        ) as caught:
            look(*where)
        assert not isinstance(caught.value, Damaged) and "\n" not in str(caught.value)
    s3.faults = []
    check_shard(*where)
    [key] = s3.keys("frames")
    s3.put(key, s3.get(key)[:-50])
    with pytest.raises(Damaged):
        check_shard(*where)
    assert read_shard(*where) is None


def test_trouble_that_stays_ends(s3, monkeypatch):
    monkeypatch.setattr(buckets, "PATIENCE", 0.3)
    store = Store("s3://bucket")
    s3.faults = [s3.Fault("slow", times=1e9, seconds=1)]
    began = time.monotonic()
    with pytest.raises(
        LostConnection, match=r"s3://bucket/x: the connection was lost, tried 4 times: no answer in time"
    ):
        store.read("x")
    assert time.monotonic() - began < 10


def test_too_much_for_one_object_is_said(s3, monkeypatch):
    monkeypatch.setattr(buckets, "LARGEST", 9)
    with pytest.raises(Rejected, match=r"s3://bucket/x: is .* GB"):
        Store("s3://bucket").write(b"0123456789", "x")
    assert s3.keys() == []


@pytest.mark.parametrize(
    ("kind", "url", "expected"),
    [
        ("403", "s3://bucket/x", "store s3://bucket/x: the server says 403 Forbidden; keys are looked for in"),
        ("", "s3://no-bucket/x", "store s3://no-bucket/x: there is no such bucket; make it"),
        (
            "",
            "s3://bucket?wrong=hunter2",
            "store 's3://bucket' cannot be opened: behind '\\?' .* region, endpoint_override",
        ),
        ("", "https://u:hunter2@host/x", "store 'https://host/x' cannot be opened: a web server"),
        ("", "hdfs://u:hunter2@host/x", "store 'hdfs://...' cannot be opened: it has to be a folder"),
        ("", "s3://", r"store 's3://...' cannot be opened: has to name a bucket"),
    ],
)
def test_what_cannot_be_opened_says_the_way_out(s3, kind, url, expected):
    s3.faults = [s3.Fault(kind, times=1e9)] if kind else []
    with pytest.raises(StoreError, match=f"^{expected}") as caught:
        Store(url).reach()
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


def test_keys_come_from_the_address_the_environment_or_a_profile(s3, monkeypatch, tmp_path):
    from clip2video_pipe.manifests.addresses import Url
    from clip2video_pipe.manifests.clients import settings

    def said(url):
        found = {name: value for name, value in settings(Url(url))[1].items() if name != "disable_bulk_delete"}
        return found | (found.pop("credential_provider", dict)())

    end = {"endpoint": s3.address}
    no_token = {"token": None, "expires_at": None}
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of the environment's keys")
    assert said("s3://me:a%2Fb@bucket") == {"access_key_id": "me", "secret_access_key": "a/b", **no_token, **end}
    assert said("s3://bucket?anonymous=true") == {"skip_signature": True, **end}
    assert said("s3://bucket") == end, "obstore looks into the environment"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_REGION")
    (tmp_path / "credentials").write_text("[two]\naws_access_key_id = i\naws_secret_access_key = s\n")
    (tmp_path / "config").write_text("[profile two]\nregion = eu-west-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "two")
    keys_of_two = {"access_key_id": "i", "secret_access_key": "s", **no_token}
    assert said("s3://bucket") == {**keys_of_two, "region": "eu-west-1", **end}
    where = "s3://bucket?region=x&endpoint_override=host:9000&scheme=http"
    assert said(where) == {**keys_of_two, "region": "x", "endpoint": "http://host:9000"}
    (tmp_path / "credentials").write_text("[two]\naws_access_key_id=i\naws_secret_access_key=s\naws_session_token=t\n")
    assert said("s3://bucket").items() >= {"token": "t"}.items()
    assert said("gs://anonymous@bucket") == {"base_url": s3.address, "skip_signature": True}


def test_the_token_of_the_environments_keys_is_not_sent_with_others(s3, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a token")
    for url, key, token in (("s3://other:secret@bucket", "other", None), ("s3://bucket", "a-key", "a token")):
        Store(url).write(b"x", "y")
        assert f"Credential={key}/" in s3.headers["Authorization"]
        assert s3.headers.get("x-amz-security-token") == token


def test_pyarrow_hands_interrupts_on(s3, monkeypatch):
    where = shard(Store("s3://bucket"))
    reads = []

    def interrupted(*_):
        reads.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(buckets.Bucket, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check_shard(*where)
    assert reads
