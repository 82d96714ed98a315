"""Where the items of a stage lie, a hundred bytes an item: a corpus may have millions."""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clip2video_pipe.manifests.schemas import ITEM, ITEM_COLUMNS, MANIFEST_ITEMS, OK
from clip2video_pipe.manifests.shards import WELL, Outcome, Shard, outcome_table, outcomes_of
from clip2video_pipe.manifests.store import Stamp

SETTLE = 1 << 15  # items of this run that are kept one by one, before they join the columns
PREFIX = 8  # bytes of an item that it is looked up by

Codes = npt.NDArray[np.int32]
Positions = npt.NDArray[np.int64]


class Written(NamedTuple):
    """A shard as it was when it was written, or first read."""

    rows: int
    stamp: Stamp


class Place(NamedTuple):
    """Where an item's row lies."""

    shard: str
    row: int
    outcome: Outcome


class _Columns(NamedTuple):
    """A row an item; `shard` and `outcome` are positions in lists that Places has."""

    item: pa.StringArray
    shard: Codes
    row: Codes
    outcome: Codes

    def take(self, keep: npt.NDArray[np.bool_]) -> "_Columns":
        return _Columns(self.item.filter(pa.array(keep)), *(column[keep] for column in self[1:]))

    def then(self, other: "_Columns") -> "_Columns":
        if not len(self.item):
            return other
        numbers = (np.concatenate(pair) for pair in zip(self[1:], other[1:], strict=True))
        return _Columns(pa.concat_arrays([self.item, other.item]), *numbers)


NOTHING = _Columns(pa.array([], pa.string()), *(np.empty(0, np.int32) for _ in range(3)))


class Places:
    """The place of each item that is known of a stage key, read like a mapping; for many items, ask at once."""

    def __init__(self) -> None:
        self.shards: dict[str, Written] = {}  # all that the items lie in, and others
        self._names: list[str] = []
        self._name_codes: dict[str, int] = {}
        self._outcomes: list[Outcome] = [WELL]
        self._outcome_codes: dict[Outcome, int] = {WELL: 0}
        self._settled = NOTHING
        self._index: tuple[npt.NDArray[np.uint64], Positions] | None = None
        self._new: dict[str, tuple[int, int, int]] = {}
        # Those that joined the columns last are asked for soon: what was decoded is embedded next.
        self._recent: dict[str, tuple[int, int, int]] = {}

    @classmethod
    def of(cls, table: pa.Table, shards: Mapping[str, Written]) -> "Places":
        """Of a manifest's items: MANIFEST_ITEMS rows."""
        places = cls()
        places.merge(table, shards)
        return places

    def add(self, shard: Shard, items: Sequence[str]) -> None:
        """A shard that was just written: its rows count, whatever was known of their items."""
        self.shards[shard.name] = Written(shard.rows, shard.stamp)
        code = self._name_code(shard.name)
        unusual = dict(shard.unusual)
        for row, item in enumerate(items):
            self._new[item] = (code, row, self._outcome_code(unusual[row]) if row in unusual else 0)
        if len(self._new) >= SETTLE:
            self._settle()

    def merge(self, table: pa.Table, shards: Mapping[str, Written]) -> None:
        """MANIFEST_ITEMS rows of distinct items, of shards that are in the store.

        Where an item lies in several shards, an `ok` row wins over a failed one, that over one of the moment, then the
        shard whose name comes first.
        """
        self.shards.update(shards)
        coming = self._columns(table)
        self._settle()
        have = self._settled
        at = _find(coming.item, have.item)
        twice = np.flatnonzero(at >= 0)
        if not len(twice):
            self._set(have.then(coming))
            return
        theirs = at[twice]
        better = self._worth(coming.outcome[twice], coming.shard[twice]) < self._worth(
            have.outcome[theirs], have.shard[theirs]
        )
        for mine, new in zip(have[1:], coming[1:], strict=True):
            mine[theirs[better]] = new[twice[better]]
        self._set(have.then(coming.take(at < 0)))

    def without(self, unwanted: Callable[[Outcome], bool], but: Collection[str] = ()) -> None:
        """Forget items with such outcomes, but for some."""
        self._settle()
        bad = np.array([unwanted(outcome) for outcome in self._outcomes])
        if bad.any():
            gone = bad[self._settled.outcome]
            if but:
                gone &= _find(self._settled.item, pa.array(but, pa.string())) < 0
            self._set(self._settled.take(~gone))

    def __len__(self) -> int:
        self._settle()
        return len(self._settled.item)

    def __contains__(self, item: str) -> bool:
        return item in self._new or item in self._recent or self._position(item) >= 0

    def __getitem__(self, item: str) -> Place:
        found = self._new.get(item) or self._recent.get(item)
        if found is None:
            at = self._position(item)
            if at < 0:
                raise KeyError(item)
            columns = self._settled
            found = int(columns.shard[at]), int(columns.row[at]), int(columns.outcome[at])
        shard, row, outcome = found
        return Place(self._names[shard], row, self._outcomes[outcome])

    def __iter__(self) -> Iterator[str]:
        self._settle()
        yield from self._settled.item.to_pylist()

    def missing(self, items: Sequence[str]) -> list[str]:
        """Those of the items that are not here, in their order."""
        if not len(self):
            return list(items)
        absent = np.flatnonzero(_find(pa.array(items, pa.string()), self._settled.item) < 0)
        return [items[n] for n in absent.tolist()]

    def table(self, items: Sequence[str]) -> pa.Table:
        """MANIFEST_ITEMS rows of these items, in their order. Raises KeyError for one that is not here."""
        self._settle()
        wanted = pa.array(items, pa.string())
        at = _find(wanted, self._settled.item)
        if len(at) and at.min() < 0:
            raise KeyError(items[int(np.argmin(at))])
        shard, row, outcome = (column[at] for column in self._settled[1:])
        said = outcome_table(pa.schema(ITEM), [""] * len(self._outcomes), self._outcomes, {})
        said = said.select(ITEM_COLUMNS[1:]).take(pa.array(outcome))
        columns = {"item": wanted, **{name: said[name] for name in said.column_names}}
        columns |= {"shard": pa.array(self._names, pa.string()).take(pa.array(shard)), "row": pa.array(row)}
        return pa.table(columns, schema=MANIFEST_ITEMS)

    def by_shard(self) -> Iterator[tuple[str, list[str]]]:
        """Each shard that holds items, and which."""
        self._settle()
        order = np.argsort(self._settled.shard, kind="stable")
        bounds = np.flatnonzero(np.diff(self._settled.shard[order], prepend=-1, append=-1))
        for start, stop in itertools.pairwise(bounds.tolist()):
            part = order[start:stop]
            yield self._names[self._settled.shard[part[0]]], self._settled.item.take(pa.array(part)).to_pylist()

    def _columns(self, table: pa.Table) -> _Columns:
        item = table["item"].combine_chunks()
        shard = table["shard"].dictionary_encode().unify_dictionaries().combine_chunks()
        codes = np.array([self._name_code(name) for name in shard.dictionary.to_pylist()], np.int32)
        unusual = pc.or_(pc.not_equal(table["status"], OK), pc.is_valid(table["message"])).to_numpy()
        outcome = np.zeros(len(item), np.int32)
        some = outcomes_of(table.filter(pa.array(unusual)))
        outcome[unusual] = [self._outcome_code(said) for said in some]
        numbers = shard.indices.to_numpy(), table["row"].to_numpy()
        return _Columns(item, codes[numbers[0]], numbers[1].astype(np.int32), outcome)

    def _name_code(self, name: str) -> int:
        code = self._name_codes.setdefault(name, len(self._names))
        if code == len(self._names):
            self._names.append(name)
        return code

    def _outcome_code(self, outcome: Outcome) -> int:
        code = self._outcome_codes.setdefault(outcome, len(self._outcomes))
        if code == len(self._outcomes):
            self._outcomes.append(outcome)
        return code

    def _worth(self, outcome: Codes, shard: Codes) -> npt.NDArray[np.int64]:
        """Smaller is better."""
        rank = np.empty(len(self._names), np.int64)
        rank[sorted(range(len(rank)), key=self._names.__getitem__)] = np.arange(len(rank))
        kind = np.array([2 * (said.status != OK) + said.passing for said in self._outcomes], np.int64)
        return kind[outcome] * len(rank) + rank[shard]

    def _settle(self) -> None:
        if not self._new:
            return
        item = pa.array(list(self._new), pa.string())
        numbers = np.array(list(self._new.values()), np.int32).T
        recent, self._new = self._new, {}
        have = self._settled
        at = _find(item, have.item)
        again = at >= 0
        for mine, new in zip(have[1:], numbers, strict=True):
            mine[at[again]] = new[again]
        self._set(have.then(_Columns(item, *numbers).take(~again)))
        self._recent = recent

    def _set(self, columns: _Columns) -> None:
        self._settled = columns
        self._index, self._recent = None, {}

    def _position(self, item: str) -> int:
        """Of an item in the columns; -1 where it is not there."""
        if self._index is None:
            codes = _prefixes(self._settled.item)
            order = np.argsort(codes, kind="stable")
            self._index = codes[order], order
        codes, order = self._index
        code = np.frombuffer(item.encode()[:PREFIX].ljust(PREFIX, b"\0"), ">u8").astype(np.uint64)[0]
        for n in range(int(np.searchsorted(codes, code)), len(codes)):
            if codes[n] != code:
                break
            if self._settled.item[order[n]].as_py() == item:
                return int(order[n])
        return -1


def _find(wanted: pa.StringArray, among: pa.StringArray) -> Positions:
    """Position of each among the others, which are distinct; -1 where it is not there."""
    at = np.full(len(wanted), -1, np.int64)
    # A corpus that has grown mostly begins as it did: then there is little to look up.
    both = min(len(wanted), len(among))
    differs = pc.index(pc.not_equal(wanted.slice(0, both), among.slice(0, both)), True).as_py()
    same = both if differs < 0 else differs
    at[:same] = np.arange(same)
    rest = wanted.slice(same)
    if len(rest) and len(among):
        # The smaller side is hashed, the larger one passes by.
        if len(rest) < len(among):
            codes = rest.dictionary_encode()
            where = np.full(len(codes.dictionary), -1, np.int64)
            hits = pc.index_in(among, codes.dictionary)
            where[hits.drop_null().to_numpy()] = np.flatnonzero(hits.is_valid().to_numpy(zero_copy_only=False))
            at[same:] = where[codes.indices.to_numpy()]
        else:
            at[same:] = pc.index_in(rest, among).fill_null(-1).to_numpy()
    return at


def _prefixes(items: pa.StringArray) -> npt.NDArray[np.uint64]:
    """The first bytes of each, as a number."""
    if not len(items):
        return np.empty(0, np.uint64)
    offsets = np.frombuffer(items.buffers()[1], np.int32)[items.offset :][: len(items) + 1].astype(np.int64)
    data = np.frombuffer(items.buffers()[2], np.uint8)
    at = offsets[:-1, None] + np.arange(PREFIX)
    inside = at < offsets[1:, None]
    letters = np.where(inside, data[np.minimum(at, len(data) - 1)], 0).astype(np.uint8)
    return np.ascontiguousarray(letters).view(">u8").ravel().astype(np.uint64)
