"""Reading a benchmark's annotation files: found by name below one folder, checked, and blamed by name."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clip2video_pipe.stages.datasets import DatasetError, Gap
from clip2video_pipe.stages.datasets.files import walk


class Annotations:
    """The files below `folder`, by name; of two with one name the first in the order of paths."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DatasetError(f"dataset.annotations: {str(folder)!r} is not a folder")
        self.folder = folder
        self._files: dict[str, Path] = {}
        for path in walk(folder):
            self._files.setdefault(path.name, path)

    def find(self, *names: str) -> Path | None:
        """The first of these names that is there."""
        return next((self._files[name] for name in names if name in self._files), None)

    def need(self, what: str, *names: str) -> Path:
        """As `find`. Raises DatasetError, naming what was looked for."""
        found = self.find(*names)
        if found is None:
            raise DatasetError(f"dataset.annotations: {str(self.folder)!r} has no {' or '.join(names)}, for {what}")
        return found


def read_json(path: Path) -> Any:
    """Raises DatasetError."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not JSON: {error}") from error


def read_list(path: Path) -> list[str]:
    """Ids, one a line. Raises DatasetError."""
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeError) as error:
        raise DatasetError(f"{path}: cannot be read as a list: {error}") from error
    found = [line for line in found if line]
    if not found:
        raise DatasetError(f"{path}: names no video")
    return found


def read_csv(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    """Rows that have at least these columns. Raises DatasetError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for column in columns:
                if column not in (reader.fieldnames or ()):
                    raise DatasetError(f"{path}: has no column {column!r}")
            for row in reader:
                if any(not isinstance(row[column], str) for column in columns):
                    raise DatasetError(f"{path}:{reader.line_num}: has fewer fields than the first line")
                if None in row:
                    raise DatasetError(f"{path}:{reader.line_num}: has more fields than the first line; quote commas")
                yield row
    except (OSError, UnicodeError, csv.Error) as error:
        raise DatasetError(f"{path}: cannot be read as .csv: {error}") from error


def said(path: Path, place: str, value: Any, kind: type, what: str) -> Any:
    """`value`, if it is of that kind. Raises DatasetError, naming file and place."""
    if not isinstance(value, kind):
        raise DatasetError(f"{path}: {place} is {str(value)[:80]!r}; it has to be {what}")
    if isinstance(value, str) and any("\ud800" <= sign <= "\udfff" for sign in value):
        raise DatasetError(f"{path}: {place} is {value[:80]!r}, which is no text: half of a character")
    return value


def texts(path: Path, place: str, value: Any) -> list[str]:
    """A list of texts. Raises DatasetError."""
    found = said(path, place, value, list, "a list of texts")
    return [said(path, place, text, str, "a list of texts") for text in found]


def once(ids: Sequence[str], where: str) -> tuple[list[str], list[Gap]]:
    """Each id once, and a gap for each that comes again."""
    seen: dict[str, int] = {}
    for video_id in ids:
        seen[video_id] = seen.get(video_id, 0) + 1
    twice = [Gap("id-twice", i, f"{where} names it {count} times") for i, count in seen.items() if count > 1]
    return list(seen), twice
