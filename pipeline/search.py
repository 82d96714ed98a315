"""The stored videos that score highest for a text or for a video: every stored vector, or an index's, is multiplied."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clip2video_pipe.manifests.fingerprints import Fingerprints
from clip2video_pipe.manifests.manifest import Manifest, load
from clip2video_pipe.manifests.schemas import ITEM_COLUMNS, OK
from clip2video_pipe.manifests.shards import read_columns, well
from clip2video_pipe.models.text import clean
from clip2video_pipe.pipeline.aside import aside
from clip2video_pipe.pipeline.config import public
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.events import RUNS
from clip2video_pipe.pipeline.export import embeddings
from clip2video_pipe.pipeline.index import CANDIDATES, Wanted, opened
from clip2video_pipe.pipeline.plan import embedding_stages, make_plan, model_spec, open_store
from clip2video_pipe.pipeline.settings import Config
from clip2video_pipe.stages import caption_embeddings, frames
from clip2video_pipe.stages.base import Stage
from clip2video_pipe.stages.entrants import with_outcomes
from clip2video_pipe.stages.vectors import BLOCK, Floats, Positions, joined, vector_blocks, vectors_at

LISTED = ["video_id", "start", "end"]


class Hit(NamedTuple):
    """A video that was found; `start` and `end` in seconds, None where it is the whole file."""

    score: float
    video_id: str
    start: float | None
    end: float | None


@dataclass(frozen=True, eq=False)
class Queries:
    """What is searched for: the stages that make vectors of it, and the rows that the first of them reads."""

    names: Sequence[str]  # as they were given
    stages: Sequence[Stage]
    rows: pa.Table


@dataclass(frozen=True, eq=False)
class Corpus:
    """Videos that have a vector, in the dataset's order, and where those vectors lie."""

    ids: pa.Table  # LISTED
    row: Positions  # int64 [videos]: of each its row of `places`; videos of the same content share one
    places: pa.Table  # `shard` and `row` in the manifest's stage, in this order
    manifest: Manifest


class Searched(NamedTuple):
    """The best hits of each query, best first, and how many videos were looked at."""

    hits: list[list[Hit]]
    videos: int


class Searcher:
    """A config's stages and store, opened to search. Raises RequestError, or WeightsError for weights that are gone."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._store = open_store(config)
        self._model = model_spec(config, Fingerprints(self._store))
        self._frames, self._videos, self._captions = embedding_stages(config, self._model)

    def texts(self, texts: Sequence[str]) -> Queries:
        """Captions to search for: cleaned, and cut to model.max_words tokens, as a dataset's are."""
        cleaned = list(map(clean, texts))
        rows = pa.table({"item": cleaned, "text": cleaned}, caption_embeddings.SOURCE)
        return Queries(texts, [self._captions], rows)

    def video(self, path: str) -> Queries:
        """A video file, or its address, to search for: sampled and embedded whole, as a dataset's are."""
        item = os.fsencode(path).decode("utf-8", "replace")
        row = {"item": [item], "path": [os.fsencode(path)], "start": [None], "end": [None]}
        return Queries([item], [self._frames, self._videos], pa.table(row, frames.SOURCE))

    def search(self, queries: Queries, k: int, *, by_index: bool = False) -> Searched:
        """The `k` videos that score highest for each query, equal ones in the dataset's order.

        For a caption `S = exp(logit_scale) * (w * t_g . v_g + (1 - w) * t_a . v_a)`, the score of `similarity`
        (reference 15), for a video `w * q_g . v_g + (1 - w) * q_a . v_a`, at most 1; without an alignment block w
        counts as 1. Scores that are not finite are no hits. The vectors are read a block at a time, for as many
        queries as there is memory (score.memory) for the scores of. `by_index`: only those vectors that an index names
        are read. Raises RequestError where there are no vectors, no index of them, or a query cannot be embedded,
        Damaged.
        """
        with aside() as other:
            other.ask(queries.stages, queries.rows)
            corpus = self.corpus()
            wanted = self.wanted(corpus) if by_index else None
            index = opened(wanted) if wanted else None
            blocks = None if index else self._blocks(corpus)  # read while the model is loaded
            rows = other.answer()
        for row in rows.filter(pc.not_equal(rows["status"], OK)).to_pylist():
            raise RequestError(f"search: {row['error']}: {row['message']}")
        weight = self._config.model.center_weight
        vectors = joined(rows, (weight, 1 - weight))
        hits: list[list[Hit]] = []
        step = _at_once(self._config.score.memory // 4, corpus)
        for start in range(0, len(vectors), step):
            some = vectors[start : start + step]
            scores = np.full((len(some), len(corpus.places)), -np.inf, np.float32)
            if wanted and index:
                # the index holds vectors times the roots of these weights
                found = index.candidates(joined(rows.slice(start, step), wanted.weights), CANDIDATES * k)
                for row, places, query in zip(scores, found, some, strict=True):
                    if len(places):
                        row[places] = vectors_at(corpus.manifest, corpus.places.take(pa.array(places))) @ query
            else:
                for at, block in blocks if blocks and not start else self._blocks(corpus):
                    scores[:, at] = some @ block.T
            hits += (_hits(corpus, row, k) for row in scores)
        return Searched(hits, len(corpus.ids))

    def _blocks(self, corpus: Corpus) -> Iterator[tuple[slice, Floats]]:
        size = 2 * 4 * BLOCK * self._model.size.embed_dim
        return vector_blocks(corpus.manifest, corpus.places, self._config.score.memory // 4 // size)

    def wanted(self, corpus: Corpus) -> Wanted:
        """What an index of a corpus has to hold."""
        return Wanted(self._config.name, corpus.manifest, corpus.places, self._config.model.center_weight)

    def corpus(self) -> Corpus:
        """What is searched. Raises RequestError."""
        listed, manifest = self._last_run() or self._planned()
        items = manifest.rows_of_items()
        rows = well(with_outcomes(listed, "video", "video_id", items.select(ITEM_COLUMNS), "start", "end"))
        if not len(rows):
            raise RequestError(f"search: no video of {self._config.name!r} has a vector; 'explain' says why")
        places = well(items)
        shards = places["shard"].unify_dictionaries().combine_chunks().indices.to_numpy()
        places = places.take(pa.array(np.lexsort((places["row"].to_numpy(), shards))))
        row = pc.index_in(rows["content"], places["item"].combine_chunks()).to_numpy()
        return Corpus(rows.select(["id", "start", "end"]), row, places.select(["shard", "row"]), manifest)

    def _last_run(self) -> tuple[pa.Table, Manifest] | None:
        """The listing, and the manifest of the vectors, of the last run of this dataset with these settings.

        No file of the dataset is looked at, which would take longer than all the rest.
        """
        dataset = json.loads(json.dumps(public(self._config.dataset.model_dump())))
        name = self._config.name
        for stamp in reversed(self._store.folders(RUNS, name)):
            done, config = (self._store.read_json(RUNS, name, stamp, file) for file in ("run.json", "config.json"))
            if not isinstance(done, dict) or not isinstance(config, dict) or config.get("dataset") != dataset:
                continue
            stages = {stage["stage"]: stage for stage in done["stages"]}
            if stages[self._videos.name]["key"] != self._videos.identity.key:
                continue
            found = [load(self._store, stage, stages[stage]["manifest"]) for stage in ("videos", self._videos.name)]
            if found[0] and found[1]:
                return _listing(found[0]), found[1]
        return None

    def _planned(self) -> tuple[pa.Table, Manifest]:
        """The same from the dataset itself, where no run of it has come to its end."""
        plan = make_plan(self._config, again=False)
        return plan.listing.videos, embeddings(plan, plan.video_embeddings)


def _at_once(memory: int, corpus: Corpus) -> int:
    """How many queries' scores fit in so many bytes."""
    return max(1, memory // (4 * (len(corpus.places) + len(corpus.ids))))


def _listing(manifest: Manifest) -> pa.Table:
    """Rows of `videos`, in the dataset's order."""
    items = manifest.items.select(["shard", "row"])
    names = pc.unique(items["shard"])
    where = (manifest.store, manifest.stage, manifest.key)
    tables = [read_columns(*where, name, [*ITEM_COLUMNS, *LISTED, "video"]) for name in names.to_pylist()]
    first = np.cumsum([0, *map(len, tables)])
    at = first[pc.index_in(items["shard"], names).to_numpy()] + items["row"].to_numpy()
    return pa.concat_tables(tables).take(pa.array(at)).combine_chunks()


def best(scores: Floats, k: int) -> Positions:
    """Positions of the `k` highest of these scores, best first, equal ones in order; of none that is not finite."""
    scores = np.where(np.isfinite(scores), scores, -np.inf)
    if k < len(scores):
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        candidates = np.flatnonzero(scores >= least)
    else:
        candidates = np.arange(len(scores))
    order: Positions = candidates[np.argsort(-scores[candidates], kind="stable")][:k]
    return order[np.isfinite(scores[order])]


def _hits(corpus: Corpus, scores: Floats, k: int) -> list[Hit]:
    """The hits of one query, of scores [rows of `places`]."""
    each = scores[corpus.row]
    order = best(each, k)
    ids = corpus.ids.take(pa.array(order)).to_pydict().values()
    return [Hit(*found) for found in zip(each[order].tolist(), *ids, strict=True)]


def read_queries(path: Path) -> list[str]:
    """The queries of a UTF-8 file, a line each. Raises RequestError, also where a line says nothing."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise RequestError(f"search: {str(path)!r}: {why}") from error
    if not lines:
        raise RequestError(f"search: {str(path)!r}: is empty")
    return [checked(line, f"{str(path)!r}, line {number}") for number, line in enumerate(lines, 1)]


def checked(text: str, where: str) -> str:
    """A query that says something. Raises RequestError, which names `where` it is from."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"search: {where}: is not UTF-8 text") from error
    if not clean(text):
        raise RequestError(f"search: {where}: is empty; say what to search for")
    return text
