"""Which files hold which videos: by id, whatever the extension and the sub-folder."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path

from clip2video_pipe.manifests.addresses import Location, Url
from clip2video_pipe.stages.datasets import DatasetError, Gap, Video

EXTENSIONS = frozenset(
    f".{name}"
    for names in ("3gp avi flv gif m2ts m4v mkv mov mp4", "mpeg mpg mts mxf ogv ts vob webm wmv")
    for name in names.split()
)
CUT = re.compile(r"(?P<whole>.+)_(?P<start>\d+)_(?P<end>\d+)")  # an id that ends in its clip's seconds


def walk(root: Path) -> Iterator[Path]:
    """Every file below `root` in the order of names, hidden ones passed over. Raises DatasetError.

    Folders that are links are followed, but for one that leads back to a folder above it.
    """

    def stop(error: OSError) -> None:
        raise DatasetError(f"{str(error.filename)!r}: cannot be looked into: {error.strerror}") from error

    for folder, folders, names in os.walk(root, onerror=stop, followlinks=True):
        if Path(folder) != root and Path(folder).is_symlink() and _leads_back(root, Path(folder)):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _leads_back(root: Path, link: Path) -> bool:
    """Whether a link below `root` is to one of the folders that it lies in."""
    to = link.resolve()
    return any((root / above).resolve() == to for above in link.relative_to(root).parents)


def is_glob(pattern: str) -> bool:
    """Whether it stands for what it finds: a path that is there stands for itself."""
    return any(sign in pattern for sign in "*?[") and not os.path.lexists(pattern)


def expand(pattern: str) -> list[Path]:
    """The path, or the files and folders that the glob finds (`**` for any depth), by name. Raises DatasetError."""
    if not is_glob(pattern):
        return [Path(pattern)]
    found = sorted(map(Path, glob(pattern, recursive=True)))  # noqa: PTH207 - absolute patterns too
    if not found:
        raise DatasetError(f"dataset.path: {pattern!r} finds nothing (relative paths start at {Path.cwd()})")
    return found


def listed(key: str, folder: Url) -> Iterator[tuple[str, Url]]:
    """Every object below a prefix, with its path from there, hidden ones passed over. Raises DatasetError."""
    if not folder.is_object:
        raise DatasetError(
            f"{key}: {str(folder)!r}: a web server cannot be asked which files it has; name them in a table"
        )
    from clip2video_pipe.manifests.objects import list_objects

    try:
        found = list_objects(folder)
    except FileNotFoundError as error:
        raise DatasetError(f"{key}: {str(folder)!r}: no such folder") from error
    except OSError as error:
        raise DatasetError(f"{key}: {str(folder)!r}: {error.strerror or error}") from error
    yield from ((name, url) for name, url in found if not any(part.startswith(".") for part in name.split("/")))


def is_video(path: Location) -> bool:
    """Whether a file is named like a video."""
    return path.suffix.lower() in EXTENSIONS


def text(path: Location) -> str:
    """A path as text: bytes that are not UTF-8 are written as \\xNN."""
    if isinstance(path, Url):
        return str(path)
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _below(root: Location) -> Iterator[Location]:
    if isinstance(root, Url):
        return (url for _, url in listed("dataset.videos", root))
    if not root.is_dir():
        raise DatasetError(f"dataset.videos: {str(root)!r} is not a folder")
    return walk(root)


@dataclass
class VideoFiles:
    """The video files below some folders, by the id that they are named after."""

    roots: Sequence[Location]
    gaps: list[Gap] = field(default_factory=list)  # files that share an id with one found before
    _found: dict[str, Location] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for root in self.roots:
            for path in filter(is_video, _below(root)):
                first = self._found.setdefault(text(Path(path.stem)), path)
                if first != path:
                    self.gaps.append(Gap("id-twice", text(Path(path.stem)), f"{text(path)}: {text(first)} is used"))

    def video(self, video_id: str, *, cut: bool) -> Video:
        """The video of that id; with `cut`, also out of a full video, by the seconds in the id.

        One without a file has a path that does not exist, so that it is counted as missing and not dropped.
        """
        if video_id in self._found:
            return Video(video_id, self._found[video_id])
        said = CUT.fullmatch(video_id) if cut else None
        if said and said["whole"] in self._found:
            return Video(video_id, self._found[said["whole"]], float(said["start"]), float(said["end"]))
        return Video(video_id, self.roots[0] / f"{video_id}.*")

    def not_asked(self, known: Iterable[str], *, cut: bool) -> list[Gap]:
        """Files whose name is no id of the dataset, nor, with `cut`, that of a full video."""
        names = set(known)
        if cut:
            names |= {said["whole"] for said in map(CUT.fullmatch, names) if said}
        return [
            Gap("file-not-asked", text(path), "no list or annotation of the dataset names it")
            for name, path in self._found.items()
            if name not in names
        ]
