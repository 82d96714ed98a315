"""A folder of video files, without captions."""

import os
from pathlib import Path

from clip2video_pipe.stages.datasets import Dataset, DatasetError, Video

EXTENSIONS = frozenset(
    [
        ".3gp",
        ".avi",
        ".flv",
        ".gif",
        ".m2ts",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".ogv",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    ]
)


def read_folder(path: Path) -> Dataset:
    """Every file below `path` that is named like a video; its id is its path from there.

    Hidden files and folders are passed over, other files are counted in the notes. Raises DatasetError where no
    file is left.
    """
    files = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
    videos = [file for file in files if file.suffix.lower() in EXTENSIONS]
    if not videos:
        known = " ".join(sorted(EXTENSIONS))
        raise DatasetError(f"{path}: no video among its {len(files)} files; a video's name ends in one of {known}")
    others = len(files) - len(videos)
    notes = (f"{path}: {others} files are not named like videos and were passed over",) if others else ()
    return Dataset(tuple(Video(_text(file.relative_to(path)), file) for file in videos), (), notes)


def _text(path: Path) -> str:
    """The path as text: bytes that are not UTF-8 are written as \\xNN."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
