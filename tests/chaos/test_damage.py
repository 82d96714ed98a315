"""What lies in the store in a damaged state is found by the next plain run, made anew, and no more than that."""

import pytest

STAGES = ("videos", "captions", "frames", "video_embeddings", "caption_embeddings", "similarity")


def half(data):
    return data[: len(data) // 2]


def flipped(data):
    at = 64  # of a Parquet file: in the pages of its first column; further on may be statistics, which nothing reads
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def a_digit_is_another(data):
    at = next(n for n in range(len(data) // 2, len(data)) if data[n : n + 1].isdigit())
    return data[:at] + (b"1" if data[at : at + 1] == b"2" else b"2") + data[at + 1 :]


def emptied(data):
    return b""


DAMAGE = {"cut": half, "flipped": flipped, "emptied": emptied, "gone": None}


def harm(path, damage):
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("stage", STAGES)
def test_a_shard(corpus, undisturbed, stage, damage):
    corpus.run()
    others = corpus.shards()
    shard = min(path for path in others if path.parent.parent.name == stage)
    harm(shard, DAMAGE[damage])
    del others[shard]
    code, out = corpus.command()
    assert code == 0, out
    if damage != "gone":
        assert f"{stage}: 1 damaged shard is made anew" in out
    stages = corpus.result()["stages"]
    assert {name for name, said in stages.items() if said["computed"]} == {stage}
    assert stages[stage]["computed"] <= {"frames": 2, "video_embeddings": 2}.get(stage, stages[stage]["items"])
    assert corpus.is_as(undisturbed)
    assert {path: path.stat().st_mtime_ns for path in others} == others, "a sound shard was written again"


@pytest.mark.parametrize("damage", [half, flipped, a_digit_is_another, emptied, None])
@pytest.mark.parametrize("name", ["manifest.json", "items-*.parquet"])
@pytest.mark.parametrize("stage", ["captions", "frames", "similarity"])
def test_a_manifest(corpus, undisturbed, stage, name, damage):
    corpus.run()
    harm(next((corpus.store / "manifests" / stage).glob(f"*/{name}")), damage)
    result = corpus.run()
    assert {name: said["computed"] for name, said in result["stages"].items() if said["computed"]} == {}
    assert corpus.is_as(undisturbed)


def test_what_is_only_found_when_it_is_read(corpus, undisturbed):
    """Shards of a run that was killed have no manifest: their items are read at once, their pictures when needed."""
    corpus.command(chaos=[{"at": "^before video_embeddings/", "do": "kill"}])
    shard = next((corpus.store / "frames").glob("*/[!.]*.parquet"))
    harm(shard, lambda data: data[:2000] + bytes([data[2000] ^ 1]) + data[2001:])
    code, out = corpus.command()
    assert code == 0 and "made anew" in out, out
    assert corpus.is_as(undisturbed)


@pytest.mark.parametrize("damage", [half, flipped, emptied])
def test_the_memory_of_fingerprints(corpus, undisturbed, damage):
    corpus.run()
    harm(corpus.store / "fingerprints.parquet", damage)
    result = corpus.run()
    assert not any(said["computed"] for said in result["stages"].values())
    assert corpus.is_as(undisturbed)


def test_everything_at_once(corpus, undisturbed):
    corpus.run()
    for number, path in enumerate(sorted(corpus.shards())):
        harm(path, list(DAMAGE.values())[number % 4])
    for number, path in enumerate(sorted((corpus.store / "manifests").glob("*/*/*"))):
        harm(path, list(DAMAGE.values())[number % 4])
    corpus.run()
    assert corpus.is_as(undisturbed)
    assert not any(said["computed"] for said in corpus.run()["stages"].values())


def test_a_store_that_was_copied_is_used_as_it_is(corpus, undisturbed):
    """Every file has another time stamp then; each is read once, and no more."""
    corpus.run()
    for path in corpus.store.rglob("*.parquet"):
        path.write_bytes(path.read_bytes())
    result = corpus.run()
    assert {said["status"] for said in result["stages"].values()} == {"reused"}
    assert {said["status"] for said in corpus.run()["stages"].values()} == {"cached"}
    assert corpus.is_as(undisturbed)
