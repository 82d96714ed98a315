"""The paper's datasets: which lists they have, and one way from lists, captions and files to a dataset."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from clip2video_pipe.manifests.addresses import Location
from clip2video_pipe.stages.datasets import Caption, Dataset, DatasetError, Gap
from clip2video_pipe.stages.datasets.annotations import Annotations, once
from clip2video_pipe.stages.datasets.files import VideoFiles


@dataclass(frozen=True)
class Split:
    """Videos of a split in the order of its list, and the captions of the dataset's videos as far as it has them."""

    ids: Sequence[str]
    captions: Mapping[str, Sequence[str]]  # by video id; also those of other splits, where one file holds all
    where: str  # the list's name, to blame
    gaps: Sequence[Gap] = field(default=())


class Protocol(ABC):
    """A benchmark. `cut`: whether ids end in seconds, and full videos may stand for clips."""

    splits: ClassVar[tuple[str, ...]]
    cut: ClassVar[bool] = False

    @abstractmethod
    def load(self, files: Annotations, split: str) -> Split:
        """A split's videos and captions. Raises DatasetError."""

    @abstractmethod
    def known(self, files: Annotations) -> set[str] | None:
        """Ids of all videos of all splits; None where a list is not there, so that nobody can tell."""

    @abstractmethod
    def training_lists(self, folder: Path) -> dict[str, tuple[str, ...]]:
        """The lists that published models were trained on, by name, as far as these files tell. Raises DatasetError."""

    def read(self, folder: Path, roots: Sequence[Location], split: str) -> Dataset:
        """The split's videos with their files and captions, and what does not fit together. Raises DatasetError."""
        files = Annotations(folder)
        loaded = self._checked(files, split)
        ids, gaps = once(loaded.ids, loaded.where)
        gaps += loaded.gaps
        found = VideoFiles(roots)
        known = (self.known(files) or set(loaded.captions)) | set(ids)
        captions = [Caption(video_id, text) for video_id in ids for text in loaded.captions.get(video_id, ())]
        gaps += [
            Gap("video-without-captions", video_id, f"{loaded.where} names it, and no caption is there for it")
            for video_id in ids
            if not loaded.captions.get(video_id)
        ]
        gaps += [
            Gap("caption-without-video", video_id, f"{len(texts)} captions of a video that no list names")
            for video_id, texts in loaded.captions.items()
            if video_id not in known
        ]
        gaps += [*found.gaps, *found.not_asked(known, cut=self.cut)]
        videos = tuple(found.video(video_id, cut=self.cut) for video_id in ids)
        return Dataset(videos, tuple(captions), gaps=tuple(gaps))

    def captions(self, folder: Path, split: str) -> list[Caption]:
        """The captions of a split, whatever became of its videos. Raises DatasetError."""
        loaded = self._checked(Annotations(folder), split)
        return [Caption(i, text) for i in dict.fromkeys(loaded.ids) for text in loaded.captions.get(i, ())]

    def _checked(self, files: Annotations, split: str) -> Split:
        if split not in self.splits:
            raise DatasetError(f"dataset.split: is {split!r}; this dataset has {', '.join(self.splits)}")
        loaded = self.load(files, split)
        if not loaded.ids:
            raise DatasetError(f"{loaded.where}: names no video of the split {split!r}")
        return loaded


def protocol(kind: str) -> Protocol:
    """The benchmark of that name."""
    from clip2video_pipe.stages.datasets.msrvtt import Msrvtt1kA, MsrvttFull
    from clip2video_pipe.stages.datasets.msvd import Msvd
    from clip2video_pipe.stages.datasets.vatex import Vatex

    kinds: dict[str, Callable[[], Protocol]] = {
        "msrvtt-1ka": Msrvtt1kA,
        "msrvtt-full": MsrvttFull,
        "msvd": Msvd,
        "vatex": Vatex,
    }
    return kinds[kind]()
