"""The command `clip2video-pipe search`."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.options import AsJson, ConfigPath, Overrides
from clip2video_pipe.pipeline.search import Hit, Searched, Searcher, checked, read_queries
from clip2video_pipe.pipeline.settings import Config
from clip2video_pipe.pipeline.words import span


def search_videos(
    config: ConfigPath,
    query: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="What is to be seen, in words.")] = None,
    k: Annotated[int, typer.Option("-k", metavar="K", help="How many videos to show of each query.")] = 10,
    video: Annotated[
        str | None, typer.Option("--video", metavar="FILE", help="Search by a video in place of a text.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Search by each line of a file in place of a text.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a page of strips of frames.")
    ] = None,
    by_index: Annotated[
        bool, typer.Option("--index", help="Look among those that the index names; 'index' makes one.")
    ] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Find the videos that score highest for a text or for a video. The embeddings have to be there."""
    if sum(given is not None for given in (query, video, queries)) != 1:
        raise RequestError("search: give one of a text, --video FILE and --from FILE")
    if k < 1:
        raise RequestError(f"search: -k is {k}; it has to be at least 1")
    if video == "":
        raise RequestError("search: --video is empty; give a file")
    texts = read_queries(queries) if queries else [] if query is None else [checked(query, "the text")]
    loaded = load_config(config, overrides or [])
    searcher = Searcher(loaded)
    asked = searcher.texts(texts) if video is None else searcher.video(video)
    found = searcher.search(asked, k, by_index=by_index)
    if html is not None:
        _write_page(loaded, html, asked.names, found)
    if as_json:
        said = [
            {"query": name, "hits": [hit._asdict() for hit in hits]}
            for name, hits in zip(asked.names, found.hits, strict=True)
        ]
        typer.echo(json.dumps({"videos": found.videos, "queries": said}, ensure_ascii=False))
        return
    for number, (name, hits) in enumerate(zip(asked.names, found.hits, strict=True)):
        if len(asked.names) > 1:
            typer.echo(f"{name}:" if not number else f"\n{name}:")
        for line in _table(hits):
            typer.echo(line)


def _write_page(config: Config, to: Path, names: Sequence[str], found: Searched) -> None:
    from clip2video_pipe.pipeline.plan import make_plan
    from clip2video_pipe.pipeline.report.page import render_search, save

    save(render_search(make_plan(config, again=False), names, found), to, "search: --html")


def _table(hits: Sequence[Hit]) -> Iterator[str]:
    width = max([len(hit.video_id) for hit in hits] + [len("video")])
    yield f"{'score':>8}  {'video':<{width}}  segment".rstrip()
    for hit in hits:
        yield f"{hit.score:8.3f}  {hit.video_id:<{width}}  {span(hit.start, hit.end)}".rstrip()
