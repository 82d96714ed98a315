"""MSVD: 1,970 clips of YouTube videos, about 40 captions each."""

from pathlib import Path
from typing import ClassVar

from clip2video_pipe.stages.datasets.annotations import Annotations, read_csv, read_list, said, texts
from clip2video_pipe.stages.datasets.protocols import Protocol, Split
from clip2video_pipe.stages.datasets.safe_pickle import load_plain

SPLITS = ("train", "val", "test")
PICKLE, CORPUS, DESCRIPTIONS = "raw-captions.pkl", "video_corpus.csv", "AllVideoDescriptions.txt"

Captions = dict[str, list[str]]


class Msvd(Protocol):
    """Train 1,200, val 100, test 670. Captions are the original's pickle, or either file of the release."""

    splits: ClassVar[tuple[str, ...]] = SPLITS
    cut: ClassVar[bool] = True

    def load(self, files: Annotations, split: str) -> Split:
        path = files.need(f"the {split} list", f"{split}_list.txt")
        return Split(read_list(path), _captions(files), str(path))

    def known(self, files: Annotations) -> set[str] | None:
        lists = [path for split in SPLITS if (path := files.find(f"{split}_list.txt"))]
        return {i for path in lists for i in read_list(path)} if len(lists) == len(SPLITS) else None

    def training_lists(self, folder: Path) -> dict[str, tuple[str, ...]]:
        path = Annotations(folder).find("train_list.txt")
        return {"msvd": tuple(read_list(path))} if path else {}


def _captions(files: Annotations) -> Captions:
    path = files.need("captions", PICKLE, CORPUS, DESCRIPTIONS)
    return {PICKLE: _pickled, CORPUS: _corpus, DESCRIPTIONS: _descriptions}[path.name](path)


def _pickled(path: Path) -> Captions:
    """`{id: [[word, ...], ...]}`."""
    data = said(path, "the whole", load_plain(path), dict, "captions by video id")
    found: Captions = {}
    for video_id, captions in data.items():
        video_id = said(path, "an id", video_id, str, "text")
        captions = said(path, f"{video_id!r}", captions, list, "a list of captions")
        found[video_id] = [" ".join(texts(path, f"a caption of {video_id!r}", words)) for words in captions]
    return found


def _corpus(path: Path) -> Captions:
    """The release's table; its clips are named by video and seconds, its captions in many languages."""
    found: Captions = {}
    for row in read_csv(path, "VideoID", "Start", "End", "Language", "Description"):
        if row["Language"].strip().lower() == "english":
            video_id = f"{row['VideoID']}_{row['Start']}_{row['End']}"
            found.setdefault(video_id, []).append(row["Description"])
    return found


def _descriptions(path: Path) -> Captions:
    """Lines of an id, a space, a caption; comments begin with #."""
    found: Captions = {}
    for line in read_list(path):
        video_id, _, caption = line.partition(" ")
        if not line.startswith("#"):
            found.setdefault(video_id, []).append(caption)
    return found
