"""A table of videos and captions: .csv, .tsv, .jsonl or .parquet."""

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clip2video_pipe.manifests.addresses import Location, Url, location, shown
from clip2video_pipe.stages.datasets import Caption, Dataset, DatasetError, Video
from clip2video_pipe.stages.datasets.files import expand

COLUMNS = ("video", "caption", "captions", "video_id", "start", "end")
KNOWN = frozenset(COLUMNS)

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row]]  # each with the place it was read from


def read_table(patterns: Sequence[str], roots: Sequence[Location]) -> Dataset:
    """Rows with `video` (a path, from the first of `roots` that has it) and captions; see `docs/configuration.md`.

    `video` may be an address, as may the last of `roots`, which has what the others do not have. Rows that name the
    same video and segment are one video with the captions of all. Without a `video_id` its id is the path as written,
    or the address without query, and the segment behind it (`#t=2.0,5.0`). Raises DatasetError, naming the row.
    """
    videos: dict[str, Video] = {}
    captions: list[Caption] = []
    find = lru_cache(1 << 16)(partial(_find, roots))  # a long video may have a row for each of its segments
    for path in (path for pattern in patterns for path in expand(pattern)):
        for place, row in _rows(path):
            video = _video(place, row, find)
            known = videos.setdefault(video.video_id, video)
            if known != video:
                other = _named(video) if _named(video) != _named(known) else "the same with another query"
                raise DatasetError(
                    f"{place}: video_id {video.video_id!r} stands for {_named(known)} and for {other}; "
                    "give each an id of its own"
                )
            captions += (Caption(video.video_id, text) for text in _captions(place, row))
    return Dataset(tuple(videos.values()), tuple(captions))


def _rows(path: Path) -> Rows:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DatasetError(f"{path}: a table's name ends in one of {' '.join(READERS)}, not {path.suffix!r}")
    count = 0
    try:
        for found in reader(path):
            count += 1
            yield found
    except (OSError, UnicodeError, csv.Error, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read as {path.suffix}: {error}") from error
    if not count:
        raise DatasetError(f"{path}: has no rows")


def _video(place: str, row: Row, find: Callable[[str], tuple[str, Location]]) -> Video:
    if not row.keys() <= KNOWN:
        column = next(column for column in row if column not in KNOWN)
        near = get_close_matches(str(column), COLUMNS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(COLUMNS)}"
        raise DatasetError(f"{place}: unknown column {column!r}{hint}")
    name = row.get("video")
    if not isinstance(name, str) or not name.strip():
        raise DatasetError(f"{place}: column 'video' is {name!r}; it has to be a path or an address")
    _check_text(place, "video", name)
    try:
        name, path = find(name)
    except ValueError as error:
        raise DatasetError(f"{place}: column 'video' is {shown(name)!r}; it {error}") from error
    start, end = _seconds(place, row, "start"), _seconds(place, row, "end")
    if end is not None and end <= (start or 0.0):
        raise DatasetError(f"{place}: the segment ends at {end} s, not after its start at {start or 0.0} s")
    video_id = row.get("video_id")
    if video_id is None or video_id == "":
        video_id = name if start is None and end is None else f"{name}#t={start or 0.0},{'' if end is None else end}"
    if not isinstance(video_id, str | int):
        raise DatasetError(f"{place}: column 'video_id' is {video_id!r}; it has to be text or a whole number")
    _check_text(place, "video_id", str(video_id))
    return Video(str(video_id), path, start, end)


def _find(roots: Sequence[Location], name: str) -> tuple[str, Location]:
    """A video's name to show, and where it is. Raises ValueError."""
    return shown(name), _below(roots, location(name))


def _below(roots: Sequence[Location], path: Location) -> Location:
    """Where a path leads from the first root that has it. With one root there is nothing to choose, or to look up."""
    if isinstance(path, Url) or path.is_absolute():
        return path
    *others, last = roots
    for root in others:
        found = root / str(path)
        if isinstance(found, Path) and found.exists():
            return found
    if not others or isinstance(last, Url) or (last / path).exists():
        return last / str(path)
    return roots[0] / str(path)


def _check_text(place: str, column: str, value: str) -> None:
    try:
        value.encode()
        well = "\0" not in value
    except UnicodeEncodeError:
        well = False
    if not well:
        said = shown(value)
        raise DatasetError(f"{place}: column {column!r} is {said!r}; zero bytes and half characters are not text")


def _seconds(place: str, row: Row, column: str) -> float | None:
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise DatasetError(f"{place}: column {column!r} is {value!r}; it has to be seconds, 0 or more")
    return seconds


def _captions(place: str, row: Row) -> list[str]:
    found = row.get("captions")
    found = [] if found is None else found
    if not isinstance(found, list):
        raise DatasetError(f"{place}: column 'captions' is {found!r}; it has to be a list, one text is a 'caption'")
    one = row.get("caption")
    found = found if one is None else [one, *found]
    for text in found:
        if not isinstance(text, str):
            raise DatasetError(f"{place}: a caption is {text!r}; it has to be text")
    return found


def _named(video: Video) -> str:
    if video.start is None and video.end is None:
        return str(video.path)
    return f"{video.path} from {video.start or 0.0} s to {'its end' if video.end is None else f'{video.end} s'}"


def _separated(delimiter: str) -> Callable[[Path], Rows]:
    def read(path: Path) -> Rows:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            for row in reader:
                place = f"{path}:{reader.line_num}"
                if None in row:
                    raise DatasetError(
                        f"{place}: has more fields than the first line; quote texts that hold {delimiter!r}"
                    )
                if any(value is None for value in row.values()):
                    raise DatasetError(f"{place}: has fewer fields than the first line")
                if row.get("caption") == "":
                    row["caption"] = None  # an empty cell: this row has none
                if "captions" in row:
                    raise DatasetError(f"{path}: has a column 'captions'; here each caption is a row, in 'caption'")
                yield place, row

    return read


def _jsonl(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DatasetError(f"{place}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise DatasetError(f"{place}: is {row!r}; each line has to be an object with a key 'video'")
            yield place, row


def _parquet(path: Path) -> Rows:
    number = 0
    for batch in pq.ParquetFile(path).iter_batches():
        for row in batch.to_pylist():
            yield f"{path}, row {number}", row
            number += 1


READERS: dict[str, Callable[[Path], Rows]] = {
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
