"""VATEX, English: ten captions a clip of ten seconds. The original's lists split the official validation set."""

from collections.abc import Mapping
from importlib.resources import files as packaged
from pathlib import Path
from typing import Any, ClassVar

from clip2video_pipe.stages.datasets import Gap
from clip2video_pipe.stages.datasets.annotations import Annotations, once, read_json, read_list, said, texts
from clip2video_pipe.stages.datasets.protocols import Protocol, Split

LISTS = {
    "train": "train_list.txt",
    "val": "val_list.txt",
    "test": "test_list.txt",
    "test-1k5": "test1k5_sec_list.txt",
}
SHIPPED = ("val", "test", "test-1k5")  # the release has no such lists
ORIGINAL = "vatex_data.json"
RELEASE = ("vatex_training_v1.0.json", "vatex_validation_v1.0.json")


class Vatex(Protocol):
    """`test` and `val` are the HGR split, `test-1k5` the random one of 1,500."""

    splits: ClassVar[tuple[str, ...]] = tuple(LISTS)
    cut: ClassVar[bool] = True

    def load(self, files: Annotations, split: str) -> Split:
        captions, gaps = _captions(files)
        ids = _list(files, split)
        if ids is None:  # only the training list is neither shipped nor always there: it is all of a file
            path = files.need("the training list", LISTS["train"], RELEASE[0])
            ids = list(_release(path)[0])
            return Split(ids, captions, str(path), gaps)
        return Split(ids, captions, LISTS[split], gaps)

    def known(self, files: Annotations) -> set[str] | None:
        training = self.training_lists(files.folder)
        if not training:
            return None
        lists = (_list(files, split) or [] for split in SHIPPED)
        return {video_id for ids in (*lists, *training.values()) for video_id in ids}

    def training_lists(self, folder: Path) -> dict[str, tuple[str, ...]]:
        files = Annotations(folder)
        if ids := _list(files, "train"):
            return {"vatex": tuple(ids)}
        path = files.find(RELEASE[0])
        return {"vatex": tuple(_release(path)[0])} if path else {}


def shipped(split: str) -> list[str]:
    """The list of a split that comes with this package."""
    return packaged("clip2video_pipe.stages.datasets.splits").joinpath(LISTS[split]).read_text("utf-8").split()


def _list(files: Annotations, split: str) -> list[str] | None:
    path = files.find(LISTS[split])
    if path:
        return read_list(path)
    return shipped(split) if split in SHIPPED else None


def _captions(files: Annotations) -> tuple[Mapping[str, list[str]], list[Gap]]:
    if path := files.find(ORIGINAL):
        data = said(path, "the whole", read_json(path), dict, "captions by video id")
        return {i: _english(path, i, row) for i, row in data.items()}, []
    files.need("captions", ORIGINAL, *RELEASE)
    captions: dict[str, list[str]] = {}
    gaps: list[Gap] = []
    for name in RELEASE:
        if path := files.find(name):
            found, twice = _release(path)
            captions |= found
            gaps += twice
    return captions, gaps


def _release(path: Path) -> tuple[dict[str, list[str]], list[Gap]]:
    """Captions by id out of a list of `{"videoID", "enCap", "chCap"}`."""
    captions: dict[str, list[str]] = {}
    ids = []
    for row in said(path, "the whole", read_json(path), list, "a list of videos"):
        row = said(path, "an entry", row, dict, "an object")
        video_id = said(path, "'videoID' of an entry", row.get("videoID"), str, "text")
        ids.append(video_id)
        captions.setdefault(video_id, []).extend(_english(path, video_id, row))
    return captions, once(ids, path.name)[1]


def _english(path: Path, video_id: str, row: Any) -> list[str]:
    row = said(path, f"{video_id!r}", row, dict, "an object")
    return texts(path, f"'enCap' of {video_id!r}", row.get("enCap"))
