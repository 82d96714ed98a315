"""MSR-VTT: the 1k-A protocol, and the full one. Ten thousand clips, `video0` to `video9999`."""

from pathlib import Path
from typing import Any, ClassVar

from clip2video_pipe.stages.datasets import Gap
from clip2video_pipe.stages.datasets.annotations import Annotations, once, read_csv, read_json, said
from clip2video_pipe.stages.datasets.protocols import Protocol, Split

ALL = tuple(f"video{n}" for n in range(10_000))
RANGES = {"train": slice(0, 6513), "val": slice(6513, 7010), "test": slice(7010, 10_000)}
OFFICIAL = {"train": "train", "validate": "val", "val": "val", "test": "test"}  # as the release calls its splits

TEST_1KA = "MSRVTT_JSFUSION_test.csv"
TRAIN_9K = "MSRVTT_train.9k.csv"
CAPTIONS = "MSRVTT_data.json"
RELEASE = ("train_val_videodatainfo.json", "test_videodatainfo.json", "videodatainfo.json")


class Release:
    """`videos` and `sentences` of the annotation files that are there."""

    def __init__(self, files: Annotations) -> None:
        paths = [path for name in (CAPTIONS, *RELEASE) if (path := files.find(name))]
        if not paths:
            files.need("captions", CAPTIONS, *RELEASE[:2])
        self.splits: dict[str, str] = {}
        self.captions: dict[str, list[str]] = {}
        self.gaps: list[Gap] = []  # ids that a file has twice
        for path in paths:
            data = said(path, "the whole", read_json(path), dict, "an object with 'videos' and 'sentences'")
            rows = said(path, "'videos'", data.get("videos", []), list, "a list")
            ids = [_text(path, row, "video_id") for row in rows]
            self.gaps += once(ids, path.name)[1]
            for video_id, row in zip(ids, rows, strict=True):
                self.splits.setdefault(video_id, OFFICIAL.get(str(row.get("split")), ""))
            # The original's file holds the same sentences as the release: beside it they would count twice.
            if path != paths[0] and paths[0].name == CAPTIONS:
                continue
            found: dict[str, list[str]] = {}
            for row in said(path, "'sentences'", data.get("sentences"), list, "a list"):
                found.setdefault(_text(path, row, "video_id"), []).append(_text(path, row, "caption"))
            self.captions = found | self.captions  # of files that overlap, the first that has a video's


def _text(path: Path, row: Any, name: str) -> str:
    row = said(path, "an entry", row, dict, "an object")
    found: str = said(path, f"{name!r} of an entry", row.get(name), str, "text")
    return found


class MsrvttFull(Protocol):
    """Train 6,513, val 497, test 2,990, about 20 captions a video."""

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "test")

    def load(self, files: Annotations, split: str) -> Split:
        release = Release(files)
        path = files.find(f"MSRVTT_{split}.full.csv")
        if path:
            return Split(
                [row["video_id"] for row in read_csv(path, "video_id")], release.captions, str(path), release.gaps
            )
        if any(release.splits.values()):
            ids = [video_id for video_id, its in release.splits.items() if its == split]
            return Split(ids, release.captions, f"the annotations' split {split!r}", release.gaps)
        return Split(ALL[RANGES[split]], release.captions, f"the protocol's split {split!r}", release.gaps)

    def known(self, files: Annotations) -> set[str] | None:
        return set(ALL)

    def training_lists(self, folder: Path) -> dict[str, tuple[str, ...]]:
        return _training_lists(Annotations(folder))


class Msrvtt1kA(Protocol):
    """Train 9,000, test 1,000 with one caption each; no validation list."""

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def load(self, files: Annotations, split: str) -> Split:
        if split == "train":
            files.need("the training list", TRAIN_9K, TEST_1KA)
            release = Release(files)
            return Split(_training_lists(files)["msrvtt-9k"], release.captions, "the 9k training list", release.gaps)
        path = files.need("the test list and its captions", TEST_1KA)
        captions: dict[str, list[str]] = {}
        ids = []
        for row in read_csv(path, "video_id", "sentence"):
            ids.append(row["video_id"])
            captions.setdefault(row["video_id"], []).append(row["sentence"])
        return Split(ids, captions, str(path))

    def known(self, files: Annotations) -> set[str] | None:
        return set(ALL)

    def training_lists(self, folder: Path) -> dict[str, tuple[str, ...]]:
        return _training_lists(Annotations(folder))


def _training_lists(files: Annotations) -> dict[str, tuple[str, ...]]:
    """The full one is the protocol's; of 9k its list, or all but the 1k-A test videos."""
    found = {"msrvtt-full": ALL[RANGES["train"]]}
    if path := files.find(TRAIN_9K):
        found["msrvtt-9k"] = tuple(row["video_id"] for row in read_csv(path, "video_id"))
    elif path := files.find(TEST_1KA):
        tested = {row["video_id"] for row in read_csv(path, "video_id")}
        found["msrvtt-9k"] = tuple(video_id for video_id in ALL if video_id not in tested)
    return found
