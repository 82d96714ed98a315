"""Listings of long tables, remembered: to read a million rows takes long, and mostly they are those of the last run."""

import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clip2video_pipe.manifests import keys, schemas
from clip2video_pipe.manifests.addresses import Location, Url, location, whole
from clip2video_pipe.manifests.fingerprints import Fingerprints
from clip2video_pipe.manifests.retries import LostConnection
from clip2video_pipe.manifests.shards import versions
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.contents import LISTINGS
from clip2video_pipe.pipeline.settings import TableDataset
from clip2video_pipe.stages.datasets import DatasetError
from clip2video_pipe.stages.datasets.durations import Durations
from clip2video_pipe.stages.datasets.files import expand
from clip2video_pipe.stages.listing import LISTING_VERSION, Listing

ROWS = 10_000  # of a table that is remembered: a shorter one is read as quickly
STATE = b"clip2video"
FILES = pa.schema([pa.field("path", pa.binary())])  # without secrets
VIDEOS = schemas.VIDEOS.append(pa.field("file", pa.int32()))  # position in FILES
UNIQUE = ("item", "video", "caption", "caption_id", "text", "path")  # columns that hardly say a thing twice


class RememberedListing:
    """The listing of one dataset setting, as the store remembers it. Losing it costs time, nothing else.

    What is in it follows from what its state is a digest of: the settings, the content of the tables, and that of each
    video file, or why it cannot be read. Each of the three files says which state it is of.
    """

    def __init__(
        self, dataset: TableDataset, store: Store, fingerprints: Fingerprints, durations: Durations | None
    ) -> None:
        [root] = dataset.root  # of several, which one has a file depends on what else is there
        self._root = location(root)
        self._paths = dataset.path
        self._extent = dataset.digest
        self._store, self._fingerprints, self._durations = store, fingerprints, durations
        where = self._root.hashed() if isinstance(self._root, Url) else whole(self._root)
        said = {
            "path": [str(Path(path).absolute()) for path in dataset.path],
            "root": [str(self._root), where],  # messages have it as it is written
            "segments": dataset.segments and dataset.segments.model_dump(),
            "digest": dataset.digest,
        }
        self._name = keys.digest(said)
        self._tables = self._fingerprinted()

    def load(self) -> Listing | None:
        """The listing, where neither tables nor files have changed since it was remembered."""
        paths = self._read("files", FILES) if self._tables else None
        if paths is None:
            return None
        files = [self._location(os.fsdecode(path)) for path in paths["path"].to_pylist()]
        contents = self._fingerprints.of(files, self._extent)
        durations = {} if self._durations is None else dict(zip(files, self._durations.of(files), strict=True))
        state = self._state(files, contents, durations)
        if state != _state_of(paths):
            return None
        videos, captions = self._read("videos", VIDEOS), self._read("captions", schemas.CAPTIONS)
        if videos is None or captions is None or not _state_of(videos) == _state_of(captions) == state:
            return None
        file = videos["file"].to_numpy()
        listed = videos.select(schemas.VIDEOS.names).cast(schemas.VIDEOS), captions.cast(schemas.CAPTIONS)
        return Listing(*listed, files, file, contents, durations)

    def save(self, listing: Listing) -> None:
        """Remember a listing that was just made, if it is long, says all there is to it, and holds no secret."""
        if max(len(listing.videos), len(listing.captions)) < ROWS or listing.notes or listing.gaps:
            return
        paths = [str(path) for path in listing.files]
        if not self._tables or self._tables != self._fingerprinted():  # it was changed as it was read
            return
        try:
            if [self._location(path) for path in paths] != list(listing.files):
                return
            files = pa.table({"path": [os.fsencode(path) for path in paths]}, FILES)
        except ValueError:
            return
        state = self._state(listing.files, listing.contents, listing.durations)
        videos = listing.videos.append_column(VIDEOS.field("file"), pa.array(listing.file))
        with suppress(OSError):
            for part, table in (("videos", videos), ("captions", listing.captions), ("files", files)):
                self._write(part, table, state)

    def _fingerprinted(self) -> list[list[str]] | None:
        """Name and content of each table; None where one cannot be read."""
        try:
            tables = [path for pattern in self._paths for path in expand(pattern)]
        except DatasetError:
            return None
        found: list[list[str]] = []
        for path, content in zip(tables, self._fingerprints.of(tables, "full"), strict=True):
            if isinstance(content, OSError):  # a pipe, too, which may be read and says another thing each time
                return None
            found.append([path.name, content])
        return found

    def _location(self, text: str) -> Location:
        """A video file, by its path or its address, which may need the secrets of the root's."""
        path = location(text)
        root = self._root
        if isinstance(path, Url) and isinstance(root, Url) and (path.scheme, path.host) == (root.scheme, root.host):
            return root.at(path.path)
        return path

    def _state(
        self,
        files: Sequence[Location],
        contents: Sequence[str | OSError],
        durations: Mapping[Location, float | None],
    ) -> str:
        said = [
            (str(path), content if isinstance(content, str) else repr(content), durations.get(path))
            for path, content in zip(files, contents, strict=True)
        ]
        made_by = {**versions(), "ftfy": importlib.metadata.version("ftfy"), "listing": str(LISTING_VERSION)}
        return keys.digest({"made by": made_by, "settings": self._name, "tables": self._tables, "files": said})

    def _read(self, part: str, schema: pa.Schema) -> pa.Table | None:
        """Rows of `schema`, and their state; None where they are not there, or damaged."""
        try:
            data = self._store.read(LISTINGS, self._name, f"{part}.parquet")
            table = None if data is None else pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
        except LostConnection:
            raise
        except (OSError, LookupError, TypeError, ValueError, OverflowError, pa.ArrowException):
            return None
        return table if table is not None and table.schema.equals(schema) else None

    def _write(self, part: str, table: pa.Table, state: str) -> None:
        with self._store.writing(LISTINGS, self._name, f"{part}.parquet") as sink:
            pq.write_table(
                table.replace_schema_metadata({STATE: state}),
                sink,
                compression="zstd",
                row_group_size=max(1, len(table)),
                use_dictionary=[name for name in table.column_names if name not in UNIQUE],
                write_statistics=False,
                write_page_checksum=True,
            )


def _state_of(table: pa.Table) -> str:
    return str((table.schema.metadata or {}).get(STATE, b"").decode("ascii", "replace"))
