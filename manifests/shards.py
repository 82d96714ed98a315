"""Shards: the Parquet files that hold a stage's rows. One place writes them, one reads them."""

import base64
import bisect
import contextlib
import importlib.metadata
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clip2video_pipe.manifests import keys
from clip2video_pipe.manifests.schemas import FAILED, ITEM_COLUMNS, MANIFEST_ITEMS, OK
from clip2video_pipe.manifests.store import Damaged, Stamp, Store, StoreError

FOOTER = b"clip2video"
SUFFIX = ".parquet"
OURS = re.compile(rf"[0-9a-f]{{{keys.KEY_LENGTH}}}{re.escape(SUFFIX)}")


class Outcome(NamedTuple):
    """What became of an item: `ok`, or `failed` with an error class and a message; `passing`: worth another try."""

    status: str
    error: str | None = None
    message: str | None = None
    passing: bool = False


WELL = Outcome(OK)


@dataclass(frozen=True)
class Shard:
    """A written shard, described: this travels between processes, its bytes do not."""

    name: str
    rows: int
    unusual: tuple[tuple[int, Outcome], ...]  # the rows whose outcome is another than WELL
    stamp: Stamp

    @property
    def errors(self) -> dict[str, int]:
        """How many rows failed, by class."""
        failed = Counter(outcome.error for _, outcome in self.unusual if outcome.error is not None)
        return dict(sorted(failed.items()))

    @classmethod
    def of(cls, name: str, outcomes: Sequence[Outcome], stamp: Stamp) -> Self:
        unusual = tuple((row, outcome) for row, outcome in enumerate(outcomes) if outcome != WELL)
        return cls(name, len(outcomes), unusual, stamp)


@cache
def versions() -> dict[str, str]:
    """Versions of the libraries that a shard's numbers come from."""
    found = {}
    for package in ("clip2video-pipe", "torch", "av", "numpy", "pyarrow"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


class ShardWriter:
    """Writes one shard, a row group for each table given; used as a context, `shard` is its description after.

    Holds the rows to what was asked for: `items` in this order, one row each, all of them. Raises StoreError.
    Where the shard is there already, written by another run in the meantime, that one stays, if it says the same of
    each item; it is replaced if it cannot be read, or says of some that they failed.
    """

    shard: Shard

    def __init__(self, store: Store, stage: str, key: str, items: Sequence[str], schema: pa.Schema) -> None:
        self._items = tuple(items)
        self._outcomes: list[Outcome] = []
        self._stage = stage
        self._store = store
        self._name = keys.shard_name(key, items)
        self._parts = (stage, key, self._name + SUFFIX)
        footer = {
            "stage": stage,
            "stage_key": key,
            "items": keys.digest(list(items)),
            "rows": len(items),
            "versions": versions(),
        }
        self._schema = schema.with_metadata({FOOTER: json.dumps(footer).encode()})
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            writing = self._store.writing(*self._parts, keep=self._is_as_good, took=self._took)
            sink = stack.enter_context(writing)
            # Statistics and dictionaries of pictures and vectors cost more than they tell.
            scalars = [f.name for f in self._schema if not pa.types.is_nested(f.type)]
            self._writer = stack.enter_context(
                pq.ParquetWriter(
                    sink,
                    self._schema,
                    compression=_compression(self._schema),
                    use_dictionary=[name for name in scalars if name != "item"],
                    write_statistics=scalars,
                    write_page_checksum=True,
                )
            )
            self._stack = stack.pop_all()
        return self

    def write(self, table: pa.Table) -> None:
        """Append rows as one row group."""
        done = len(self._outcomes)
        if tuple(table["item"].to_pylist()) != self._items[done : done + table.num_rows]:
            raise StoreError(f"stage {self._stage} gave rows for other items than it was asked for")
        self._outcomes += outcomes_of(table)
        self._writer.write_table(table.cast(self._schema), row_group_size=max(1, table.num_rows))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None and len(self._outcomes) != len(self._items):
            error = StoreError(f"stage {self._stage} gave {len(self._outcomes)} rows for {len(self._items)} items")
            self._stack.__exit__(StoreError, error, None)
            raise error
        self._stack.__exit__(kind, error, trace)

    def _took(self, stamp: Stamp) -> None:
        self.shard = Shard.of(self._name, self._outcomes, stamp)

    def _is_as_good(self) -> bool:
        """Whether the shard that is there says of each item what this one does, or better: then it is the one."""
        there = find_shard(self._store, *self._parts[:2], self._name)
        if there is None or any(theirs != self._outcomes[row] for row, theirs in there.unusual):
            return False
        self.shard = there
        return True


def _compression(schema: pa.Schema) -> dict[str, str]:
    """By the names that Parquet gives the columns. Floats of vectors and scores are noise, which does not pack."""
    found = {}
    for field in schema:
        nested = pa.types.is_nested(field.type)
        floats = nested and pa.types.is_floating(field.type.value_type)
        found[f"{field.name}.list.element" if nested else field.name] = "none" if floats else "lz4"
    return found


def shard_stamps(store: Store, stage: str, key: str) -> dict[str, Stamp]:
    """Name and stamp of each shard of a stage."""
    return {
        name.removesuffix(SUFFIX): stamp for name, stamp in store.stamps(stage, key).items() if OURS.fullmatch(name)
    }


def remove_shard(store: Store, stage: str, key: str, name: str, seen: Stamp | None = None) -> None:
    """Delete a shard; with `seen`, only if it is that one still. Raises OSError."""
    store.remove(stage, key, name + SUFFIX, seen=seen)


def damaged(store: Store, stage: str, key: str, name: str, why: str) -> Damaged:
    """The error that says so of a shard."""
    return Damaged(store, stage, key, name + SUFFIX, why=why)


def read_shard(store: Store, stage: str, key: str, name: str) -> pa.Table | None:
    """MANIFEST_ITEMS rows of a shard's items; None where it is damaged or not what its name says."""
    try:
        with _open(store, stage, key, name) as file, _reading(store, stage, key, name):
            table = file.read(columns=ITEM_COLUMNS)
            if keys.shard_name(key, table["item"].to_pylist()) != name:
                return None
            columns = {"shard": pa.repeat(name, len(table)), "row": pa.array(range(len(table)), pa.int32())}
            return pa.table({**{n: table[n] for n in ITEM_COLUMNS}, **columns}).cast(MANIFEST_ITEMS)
    except Damaged:
        return None


def find_shard(store: Store, stage: str, key: str, name: str) -> Shard | None:
    """A shard's description; None where it is not there, or damaged."""
    stamp = store.stamp(stage, key, name + SUFFIX)
    table = read_shard(store, stage, key, name) if stamp else None
    return None if stamp is None or table is None else Shard.of(name, outcomes_of(table), stamp)


def check_shard(store: Store, stage: str, key: str, name: str) -> None:
    """Read all of a shard, a row group at a time, with its checksums; hold it to its name and footer.

    Raises Damaged.
    """
    items: list[str] = []
    with _open(store, stage, key, name) as file, _reading(store, stage, key, name):
        footer = json.loads((file.schema_arrow.metadata or {}).get(FOOTER, b"null"))
        for table in checked(file):
            items += table["item"].to_pylist()
            if not set(table["status"].to_pylist()) <= {OK, FAILED}:
                raise damaged(store, stage, key, name, f"it holds rows that are neither {OK} nor {FAILED}")
        if keys.shard_name(key, items) != name:
            raise damaged(store, stage, key, name, "it holds other items than its name says")
        expected = {"stage": stage, "stage_key": key, "items": keys.digest(items), "rows": len(items)}
        if not isinstance(footer, dict) or {field: footer.get(field) for field in expected} != expected:
            raise damaged(store, stage, key, name, "its footer does not say what is in it")


def checked(file: pq.ParquetFile) -> Iterator[pa.Table]:
    """A file's row groups, all that can be checked of them. Raises ValueError and what else reading raises.

    No checksum is over the columns' names and types, but a file of ours says them twice.
    """
    again = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(file.metadata.metadata[b"ARROW:schema"])))
    if not file.schema_arrow.equals(again):
        raise ValueError("its columns are said in two ways")
    for group in range(file.metadata.num_row_groups):
        table = file.read_row_group(group)
        table.validate(full=True)
        yield table


def read_rows(
    store: Store,
    stage: str,
    key: str,
    places: Iterable[tuple[str, int]],
    *,
    columns: list[str] | None = None,
    chunk: int,
) -> Iterator[pa.Table]:
    """Rows at `places` (shard, row), in that order, in tables of `chunk` rows; holds one row group besides.

    Within a table each row group is read once, whatever the order. Raises Damaged when a shard is gone, cut short or
    fails its checksums.
    """
    waiting = iter(places)
    while block := list(itertools.islice(waiting, chunk)):
        order = sorted(range(len(block)), key=block.__getitem__)
        pieces = _pieces(store, stage, key, [block[at] for at in order], columns)
        table = pa.concat_tables(pieces)
        if order != list(range(len(block))):
            back = [0] * len(order)
            for position, at in enumerate(order):
                back[at] = position
            table = table.take(back)
        yield table


def read_columns(store: Store, stage: str, key: str, name: str, columns: list[str]) -> pa.Table:
    """All rows of a shard, read as a whole: where most of them are wanted, much faster than `read_rows`.

    Raises Damaged.
    """
    with _reading(store, stage, key, name):
        data = store.read(stage, key, name + SUFFIX)
        if data is None:
            raise FileNotFoundError
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        return file.read_row_groups(range(file.metadata.num_row_groups), columns=columns, use_threads=False)


def _pieces(
    store: Store, stage: str, key: str, places: Sequence[tuple[str, int]], columns: list[str] | None
) -> Iterator[pa.Table]:
    """Rows at `places`, cut where the shard or the row group changes."""
    for name, in_shard in itertools.groupby(places, key=lambda place: place[0]):
        with _open(store, stage, key, name) as file:
            bounds = _bounds(file.metadata)
            rows = (row for _, row in in_shard)
            for group, in_group in itertools.groupby(rows, key=lambda row: bisect.bisect(bounds, row) - 1):
                with _reading(store, stage, key, name):
                    table = file.read_row_group(group, columns=columns)
                yield _take(table, [row - bounds[group] for row in in_group])


def _take(table: pa.Table, rows: list[int]) -> pa.Table:
    if rows == list(range(rows[0], rows[0] + len(rows))):
        return table.slice(rows[0], len(rows))  # no copy
    return table.take(rows)


def _bounds(metadata: pq.FileMetaData) -> list[int]:
    bounds = [0]
    for group in range(metadata.num_row_groups):
        bounds.append(bounds[-1] + metadata.row_group(group).num_rows)
    return bounds


@contextlib.contextmanager
def _open(store: Store, stage: str, key: str, name: str) -> Iterator[pq.ParquetFile]:
    with contextlib.ExitStack() as stack:
        with _reading(store, stage, key, name):
            source, seen = store.opened(stage, key, name + SUFFIX)
            stack.enter_context(source)
        try:
            with _reading(store, stage, key, name):
                file = pq.ParquetFile(source, page_checksum_verification=True)
            yield file
        except Damaged as error:
            lost: BaseException | None = getattr(source, "error", None)
            if lost is None:
                error.seen = seen
                raise
            if not isinstance(lost, Exception):
                raise lost from error  # an interrupt
            raise _unread(store, stage, key, name, lost) from lost


@contextlib.contextmanager
def _reading(store: Store, stage: str, key: str, name: str) -> Iterator[None]:
    """Tells a shard that is not as it was written, Damaged, from a disk or a network that does not do: StoreError."""
    try:
        yield
    except FileNotFoundError:
        raise damaged(store, stage, key, name, "there is no such file") from None
    except (OSError, LookupError, TypeError, ValueError, OverflowError, pa.ArrowException) as error:
        # Of OSErrors, pyarrow raises plain ones without a number for what it cannot make sense of.
        if isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError):
            raise _unread(store, stage, key, name, error) from error
        raise damaged(store, stage, key, name, _first_line(error)) from error


def _unread(store: Store, stage: str, key: str, name: str, error: Exception) -> StoreError:
    path = store.path(stage, key, name + SUFFIX)
    return StoreError(f"shard {path} cannot be read: {_first_line(error).removeprefix(f'{path}: ')}")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def well(table: pa.Table) -> pa.Table:
    """The rows that are `ok`."""
    return table.filter(pc.equal(table["status"], OK))


def outcomes_of(table: pa.Table) -> list[Outcome]:
    """The outcome of each row of a table of the store."""
    columns = (table[name].to_pylist() for name in ITEM_COLUMNS[1:])
    return [Outcome(*row) for row in zip(*columns, strict=True)]


def failed_table(schema: pa.Schema, items: Sequence[str], outcome: Outcome) -> pa.Table:
    """Failed rows for `items`, all for one reason."""
    return outcome_table(schema, items, [outcome] * len(items), {})


def outcome_table(
    schema: pa.Schema, items: Sequence[str], outcomes: Sequence[Outcome], columns: dict[str, Any]
) -> pa.Table:
    """A table of `schema` from the item columns and the others, given by name as arrays; absent ones are null."""
    said = zip(*outcomes, strict=True) if outcomes else [()] * len(Outcome._fields)
    given = {"item": items, **dict(zip(Outcome._fields, said, strict=True)), **columns}
    return pa.table(
        {f.name: given[f.name] if f.name in given else pa.nulls(len(items), f.type) for f in schema},
        schema=schema,
    )
