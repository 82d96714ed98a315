"""Vectors out of the store, for a vector database or one's own search: their dot products are the scores."""

import json
import math
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clip2video_pipe.manifests.addresses import is_remote
from clip2video_pipe.manifests.manifest import Manifest
from clip2video_pipe.manifests.schemas import ITEM_COLUMNS, OK
from clip2video_pipe.manifests.shards import FOOTER, well
from clip2video_pipe.manifests.store import TEMPORARY, Store
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.plan import Plan, Step
from clip2video_pipe.stages.entrants import with_outcomes
from clip2video_pipe.stages.vectors import Vectors, joined, joined_width, read_vectors

BLOCK = 4096  # rows written at a time

Write = Callable[[Path, pa.Table, Vectors], None]


def export(plan: Plan, to: Path, captions: Path | None = None, *, force: bool = False) -> dict[str, Any]:
    """Write a row for each video that has a vector to `to`, in the dataset's order, and one for each caption.

    Row `v` of videos and row `c` of captions: `v . c` is their score, with `w` model.center_weight
    `v = [sqrt(w) v_g, sqrt(1-w) v_a]` and `c = exp(logit_scale) [sqrt(w) t_g, sqrt(1-w) t_a]` (reference 15); the
    global vectors alone, `v_g` and `exp(logit_scale) t_g`, for models without an alignment block. Gives `path`, `ids`,
    `rows`, `width` and `without` (how many have no vector, by error class) of both. Raises RequestError.
    """
    if captions is not None:
        written = {file.resolve(): file for file in _files(to)}
        for file in _files(captions):
            if file.resolve() in written:
                raise RequestError(f"export: --to and --captions would write the same file: {str(file)!r}; give two")
    writers = [_writer(path, force) for path in (to, captions) if path is not None]
    if captions is not None and plan.caption_embeddings is None:
        raise RequestError("export: the dataset has no captions; leave out --captions")
    found = {"videos": _export(video_vectors(plan), to, writers[0])}
    if captions is not None:
        found["captions"] = _export(caption_vectors(plan), captions, writers[1])
    return found


class Found(NamedTuple):
    """Vectors, what each of them is, and how many others have none, by error class."""

    ids: pa.Table
    vectors: Vectors
    without: dict[str, int]


def video_vectors(plan: Plan, most: int | None = None) -> Found:
    """Of the dataset's videos, the first `most` of them, in its order: `video_id`, `start`, `end`.

    Raises RequestError.
    """
    columns = {"video_id": "id", "start": "start", "end": "end"}
    return _vectors(plan, plan.video_embeddings, "video", plan.listing.videos.slice(0, most), columns)


def caption_vectors(plan: Plan) -> Found:
    """Of the captions: `caption_id`, `video_id`, `text`. Raises RequestError."""
    if plan.caption_embeddings is None:
        raise RequestError(f"{plan.config.name!r}: the dataset has no captions")
    columns = {"caption_id": "id", "video_id": "video_id", "text": "text"}
    return _vectors(plan, plan.caption_embeddings, "caption", plan.listing.captions, columns)


def embeddings(plan: Plan, step: Step) -> Manifest:
    """The manifest of a step that is complete. Raises RequestError."""
    if step.manifest is None:
        raise RequestError(f"{step.name} of {plan.config.name!r}: {step.why()}; start a 'run' first")
    return step.manifest


def _vectors(plan: Plan, step: Step, what: str, listing: pa.Table, columns: Mapping[str, str]) -> Found:
    manifest = embeddings(plan, step)
    more = [name for name in columns.values() if name != "id"]
    rows = with_outcomes(listing, what, f"{what}_id", manifest.items.select(ITEM_COLUMNS), *more)
    failed = Counter(rows.filter(pc.not_equal(rows["status"], OK))["error"].to_pylist())
    rows = well(rows)
    without = dict(sorted(failed.items()))
    if not len(rows):
        said = ", ".join(f"{count} {error}" for error, count in without.items())
        raise RequestError(f"no {what} of {plan.config.name!r} has a vector ({said}); 'explain' says why")
    contents, width = rows["content"].combine_chunks(), joined_width(manifest)
    weight = plan.config.model.center_weight
    join = partial(joined, weights=(math.sqrt(weight), math.sqrt(1 - weight)))
    in_memory = 4 * width * len(contents) <= plan.config.score.memory // 2
    vectors = read_vectors(manifest, contents, width, join, in_memory=in_memory)
    ids = pa.table({name: rows[source] for name, source in columns.items()})
    made_of = {"stage_key": manifest.key, "manifest": manifest.hash, "center_weight": weight}
    return Found(ids.replace_schema_metadata({FOOTER: json.dumps(made_of).encode()}), vectors, without)


def _export(found: Found, to: Path, write: Write) -> dict[str, Any]:
    write(to, found.ids, found.vectors)
    beside = {"ids": str(ids_path(to))} if to.suffix == ".npy" else {}
    return {
        "path": str(to),
        **beside,
        "rows": len(found.ids),
        "width": found.vectors.width,
        "without": found.without,
    }


def ids_path(npy: Path) -> Path:
    """The table that says what the rows of a `.npy` file are."""
    return npy.with_suffix(".ids.parquet")


def _files(path: Path) -> list[Path]:
    return [path, ids_path(path)] if path.suffix == ".npy" else [path]


def _writer(path: Path, force: bool) -> Write:
    """What writes such a file. Raises RequestError where it cannot be written."""
    name = str(path)
    if is_remote(name.replace(":/", "://", 1)):  # pathlib takes one of two slashes away
        raise RequestError(f"export: {name!r}: has to be on this machine; copy it from there")
    if path.suffix not in WRITERS:
        raise RequestError(f"export: {name!r}: has to end with one of {', '.join(WRITERS)}")
    for file in _files(path):
        if file.is_dir() and path.suffix != ".lance":
            raise RequestError(f"export: {str(file)!r} is a folder; give a file")
        if file.exists() and not force:
            raise RequestError(f"export: {str(file)!r} is there already; --force replaces it")
    if path.suffix == ".lance":
        if path.exists() and not (path / "_versions").is_dir():
            raise RequestError(f"export: {name!r} is no Lance dataset, and is not replaced by one; give another name")
        _lance_module()
    return WRITERS[path.suffix]


def _blocks(ids: pa.Table, vectors: Vectors) -> Iterator[pa.RecordBatch]:
    schema = _schema(ids, vectors.width)
    for start in range(0, len(ids), BLOCK):
        part = ids.slice(start, BLOCK).combine_chunks()
        values = pa.array(np.ascontiguousarray(vectors.read(start, start + len(part))).reshape(-1))
        columns = [c.chunk(0) if c.num_chunks else pa.nulls(0, c.type) for c in part.columns]
        vector = pa.FixedSizeListArray.from_arrays(values, vectors.width)
        yield pa.RecordBatch.from_arrays([*columns, vector], schema=schema)


def _schema(ids: pa.Table, width: int) -> pa.Schema:
    return ids.schema.append(pa.field("vector", pa.list_(pa.float32(), width)))


def _parquet(path: Path, ids: pa.Table, vectors: Vectors) -> None:
    schema = _schema(ids, vectors.width)
    packed = {**dict.fromkeys(ids.column_names, "zstd"), "vector.list.element": "none"}
    with (
        Store(str(path.parent)).writing(path.name) as sink,
        pq.ParquetWriter(
            sink, schema, compression=packed, use_dictionary=False, write_page_checksum=True, write_statistics=False
        ) as writer,
    ):
        for batch in _blocks(ids, vectors):
            writer.write_batch(batch)


def _npy(path: Path, ids: pa.Table, vectors: Vectors) -> None:
    folder = Store(str(path.parent))
    said = {"descr": np.lib.format.dtype_to_descr(np.dtype("<f4")), "fortran_order": False}
    with ExitStack() as stack:  # the ids are there before the file that they are for
        sink = stack.enter_context(folder.writing(path.name))
        table = stack.enter_context(folder.writing(ids_path(path).name))
        pq.write_table(ids, table, compression="zstd", write_page_checksum=True)
        np.lib.format.write_array_header_1_0(sink, {**said, "shape": (len(ids), vectors.width)})
        for start in range(0, len(ids), BLOCK):
            rows = vectors.read(start, min(start + BLOCK, len(ids)))
            sink.write(np.ascontiguousarray(rows, "<f4").data)
        path.unlink(missing_ok=True)  # or a kill between the two names would leave new ids beside old vectors


def _lance(path: Path, ids: pa.Table, vectors: Vectors) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = _schema(ids, vectors.width)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        reader = pa.RecordBatchReader.from_batches(schema, _blocks(ids, vectors))
        _lance_module().write_dataset(reader, str(temporary), schema=schema)
        if path.exists():  # a folder cannot be replaced in one step
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _lance_module() -> Any:
    try:
        import lance
    except ImportError as error:
        hint = "pip install 'clip2video-pipe[lance]'"
        raise RequestError(f"export: '.lance' needs pylance, which is not installed: {hint}") from error
    return lance


WRITERS: dict[str, Write] = {".parquet": _parquet, ".npy": _npy, ".lance": _lance}
