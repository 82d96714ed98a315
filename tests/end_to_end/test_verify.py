"""`verify`: every file of a store that is not as it was written is found; what it drops, a plain run makes anew."""

import hashlib
import json
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip2video_pipe.manifests import fingerprints
from clip2video_pipe.manifests.keys import digest
from clip2video_pipe.manifests.manifest import load
from clip2video_pipe.manifests.shards import FOOTER, check_shard, remove_shard
from clip2video_pipe.manifests.store import Damaged, Store
from clip2video_pipe.pipeline import listings, verify
from clip2video_pipe.pipeline.cli import main
from clip2video_pipe.pipeline.live import refuse_while_live

STAGES = ("videos", "captions", "frames", "video_embeddings", "caption_embeddings", "similarity")


def flip(path, at=0.3):
    """Change a byte and nothing else: not the size, not the time."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 0xFF
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def tables(project, result):
    store = Store(str(project.store))
    return {name: load(store, name, stage["manifest"]).table().to_pylist() for name, stage in result["stages"].items()}


def verified(project, *words):
    """Exit code of verify, and the faults by path, from the store."""
    code, out, err = project.command("verify", "--json", *words)
    assert err == ""
    [found] = json.loads(out)["stores"]
    return code, {fault["path"].removeprefix(f"{project.store}/"): fault for fault in found["faults"]}


def one(project, pattern):
    return sorted(project.store.glob(pattern))[0]


KINDS = [
    *(f"{stage}/*/*.parquet" for stage in STAGES),
    *(f"manifests/{stage}/*/items-*.parquet" for stage in ("frames", "similarity")),
    "manifests/videos/*/manifest.json",
    "runs/*/*/ranks.parquet",
    "runs/*/*/metrics.json",
    "fingerprints.parquet",
    "listings/*/videos.parquet",
]


def test_one_flipped_byte_in_each_kind_of_file_is_found_dropped_and_made_anew(project, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "SETTLED", -1.0)
    monkeypatch.setattr(listings, "ROWS", 0)
    result = project.run()
    assert verified(project) == (0, {})
    for kind in KINDS:
        flip(one(project, kind), at=0 if kind.endswith(".json") else 0.4)
        code, faults = verified(project)
        path = str(one(project, kind).relative_to(project.store))
        if "/items-" in path:
            path = str((project.store / path).with_name("manifest.json").relative_to(project.store))
        assert code == 1
        assert path in faults, f"a flipped byte in {kind} was not seen"
        assert not faults[path]["repaired"]
        code, repaired = verified(project, "--repair")
        assert code == 0
        assert repaired.keys() == faults.keys()
        assert not (project.store / path).exists()
        assert verified(project) == (0, {}), "what is left is sound"
        again = project.run()
        assert again["metrics"] == result["metrics"]
    undisturbed = project.elsewhere(tmp_path / "undisturbed")
    assert tables(project, again) == tables(undisturbed, undisturbed.run())


def test_all_at_once_and_for_people(project):
    project.run()
    bad = [one(project, kind) for kind in KINDS[:6]]
    for path in bad:
        flip(path)
    code, out, _ = project.command("verify")
    assert code == 1
    for path in bad:
        assert f"shard {path}: " in out
    assert "; --repair deletes them" in out
    assert project.command("verify", "--repair")[0] == 0
    assert not any(path.exists() for path in bad)
    project.run()
    code, out, _ = project.command("verify")
    assert code == 0
    assert out.strip().endswith(": sound")
    flip(one(project, "runs/*/*/metrics.json"), at=0)
    assert project.command("verify", "--repair")[1].endswith(": 1 bad, deleted; the next 'run' makes it anew\n")


@pytest.mark.parametrize("stage", ["videos", "video_embeddings"])
def test_whichever_byte_of_a_shard_changes_it_is_seen_or_changes_nothing_that_is_read(project, stage):
    """Libraries' names and statistics have no checksum, and nothing reads them."""
    project.run()
    path = one(project, f"{stage}/*/*.parquet")
    data, good = path.read_bytes(), pq.read_table(path)
    at = (Store(str(project.store)), stage, path.parent.name, path.stem)
    seen = 0
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            check_shard(*at)
        except Damaged:
            seen += 1
        else:
            assert pq.read_table(path).equals(good), f"byte {place} of {len(data)}"
    assert seen > len(data) / 7 / 2


def rewritten(path, change):
    """A manifest.json that someone changed, its own digest included."""
    info = json.loads(path.read_text())
    del info["digest"]
    change(info)
    path.write_text(json.dumps({**info, "digest": digest(info)}))


CHANGES = {
    "its counts are not those of its items": lambda info: info["counts"].update(ok=5, failed=1),
    "its items lie in other shards than it names": lambda info: info["shards"].popitem(),
    "has 1 bytes": lambda info: next(iter(info["shards"].values())).update(bytes=1),
    "its items are others than its hash says": lambda info: info.update(key="0" * 32),
}


@pytest.mark.parametrize("why", CHANGES)
def test_a_manifest_that_contradicts_itself_or_the_shards(project, why):
    project.run()
    path = one(project, "manifests/frames/*/manifest.json")
    rewritten(path, CHANGES[why])
    if "bytes" in why:
        why = ", and had 1"
    code, faults = verified(project)
    assert code == 1
    [fault] = faults.values()
    assert why in fault["why"]


def test_a_manifest_that_names_the_wrong_row(project):
    project.run()
    path = one(project, "manifests/frames/*/manifest.json")
    info = json.loads(path.read_text())
    table = pq.read_table(path.with_name(info["items"]))
    rows = pa.array([1, 0, *table["row"].to_pylist()[2:]], pa.int32())
    data = pa.BufferOutputStream()
    pq.write_table(table.set_column(table.column_names.index("row"), table.schema.field("row"), rows), data)
    name = f"items-{hashlib.sha256(data.getvalue()).hexdigest()[:32]}.parquet"
    path.with_name(name).write_bytes(data.getvalue())
    rewritten(path, lambda info: info.update(items=name))
    [fault] = verified(project)[1].values()
    assert "has another item in some row" in fault["why"]


def test_a_footer_that_says_another_stage(project):
    project.run()
    path = one(project, "frames/*/*.parquet")
    table = pq.read_table(path)
    footer = {**json.loads(table.schema.metadata[FOOTER]), "stage_key": "0" * 32}
    pq.write_table(table.replace_schema_metadata({FOOTER: json.dumps(footer)}), path, write_page_checksum=True)
    faults = verified(project)[1]
    assert faults[str(path.relative_to(project.store))]["why"] == "its footer does not say what is in it"


def test_a_shard_of_another_stage_or_name_and_one_that_is_gone(project):
    project.run()
    frames = one(project, "frames/*/*.parquet")
    videos = one(project, "videos/*/*.parquet")
    frames.write_bytes(videos.read_bytes())
    code, faults = verified(project)
    assert code == 1
    assert len([fault for fault in faults.values() if fault["what"] == "shard"]) == 1
    remove_shard(Store(str(project.store)), "frames", frames.parent.name, frames.stem)
    code, faults = verified(project)
    [fault] = faults.values()
    assert fault["what"] == "manifest"
    assert f"its shard {frames.stem} is gone" in fault["why"]
    assert project.command("verify", "--repair")[0] == 0
    assert project.computed() == {"frames": 2}


def test_a_file_that_cannot_be_read_is_told_and_left_alone(project, monkeypatch):
    project.run()
    path = one(project, "frames/*/*.parquet")
    real = Store.opened

    def refused(store, *parts):
        if parts[-1] == path.name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(store, *parts)

    monkeypatch.setattr(Store, "opened", refused)
    code, faults = verified(project, "--repair")
    assert code == 1
    assert "Permission denied" in faults[str(path.relative_to(project.store))]["why"]
    assert path.exists()
    assert one(project, "manifests/frames/*/manifest.json")
    assert {fault["repaired"] for fault in faults.values()} == {False}


def test_nothing_is_repaired_under_a_run_that_is_going(project):
    project.run()
    flip(one(project, "frames/*/*.parquet"))
    with project.going():
        code, _, err = project.command("verify", "--repair")
    assert code == 2
    assert "a run is going" in err
    assert project.command("verify")[0] == 1
    assert one(project, "frames/*/*.parquet")


def test_a_run_that_begins_while_it_is_read(project, monkeypatch):
    """What is found is told, and nothing deleted."""
    project.run()
    path = one(project, "frames/*/*.parquet")
    flip(path)
    asked = []

    def refuse(*said):
        asked.append(said)
        if len(asked) > 1:
            refuse_while_live(*said)

    monkeypatch.setattr(verify, "refuse_while_live", refuse)
    with project.going():
        code, out, err = project.command("verify", "--repair")
    assert code == 1 and f"shard {path}: " in out
    assert "nothing was deleted: a run is going" in err
    assert path.exists()


def test_what_a_run_made_anew_while_it_was_read_stays(project, monkeypatch):
    project.run()
    path = one(project, "frames/*/*.parquet")
    manifest = one(project, "manifests/frames/*/manifest.json")
    good = path.read_bytes(), manifest.read_bytes()
    flip(path)
    real = verify._others

    def mended(store):
        """A run that began, and ended, after the shards and manifests were read."""
        path.write_bytes(good[0])
        manifest.write_bytes(good[1])
        return real(store)

    monkeypatch.setattr(verify, "_others", mended)
    assert project.command("verify", "--repair")[0] == 0
    assert (path.read_bytes(), manifest.read_bytes()) == good


def test_what_goes_while_it_is_read_is_no_damage(project, monkeypatch):
    """A sign of life goes with its run."""
    project.run()
    real = verify._others

    def gone(store):
        found = list(real(store))
        for path in project.store.glob("runs/*/*/*.json"):
            path.unlink()
        return found

    monkeypatch.setattr(verify, "_others", gone)
    with project.going():
        assert verified(project) == (0, {})


def test_which_store(project, tmp_path, capsys, monkeypatch):
    code, _, err = project.command("verify")
    assert code == 2
    assert "there is no store" in err
    (tmp_path / "empty").mkdir()
    assert main(["verify", "--store", str(tmp_path / "empty")]) == 0
    assert "nothing is in it, 0 B: sound" in capsys.readouterr().out
    assert main(["verify", "--store", str(tmp_path / "none")]) == 2
    assert main(["verify", "--store", str(project.config)]) == 2
    assert main(["verify"]) == 2
    capsys.readouterr()
    project.run()
    monkeypatch.chdir(tmp_path)
    assert main(["verify", str(project.config), "--store", "artifacts"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1, "the same store twice is read once"
    assert main(["verify", "--store", "artifacts", "--set", "name=x"]) == 2


def test_set_names_another_store(project, tmp_path):
    project.run()
    flip(one(project, "frames/*/*.parquet"))
    (tmp_path / "empty").mkdir()
    code, out, _ = project.command("verify", "--set", f"store={tmp_path}/empty")
    assert (code, out) == (0, f"{tmp_path}/empty: nothing is in it, 0 B: sound\n")


@pytest.mark.parametrize(("query", "stores"), [("endpoint_override=http://localhost:{port}", 2), ("", 1)])
def test_stores_of_one_name_on_two_servers_are_two(project, s3, query, stores):
    s3.put("store/frames/key/x", b"")
    other = project.elsewhere(project.folder / "other")
    port = s3.address.rpartition(":")[2]
    for config, address in ((project.config, "s3://bucket/store/"), (other.config, f"s3://bucket/store?{query}")):
        text = config.read_text().rpartition("store: ")[0]
        config.write_text(f"{text}store: {address.format(port=port)}\n")
    code, out, err = project.command("verify", str(other.config))
    assert code == 0, err
    assert len(out.splitlines()) == stores


def test_a_killed_run_leaves_nothing_that_counts_as_damage(project):
    project.run()
    for manifest in project.store.glob("manifests/*/*/manifest.json"):
        manifest.unlink()
    (one(project, "frames/*/*.parquet").parent / f".half.parquet.{time.time()}.tmp").write_bytes(b"half")
    assert verified(project) == (0, {})
