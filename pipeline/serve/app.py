"""The page over a corpus, and its JSON API: videos are named by key alone, never by a path."""

import mimetypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import fastapi
from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel
from starlette.middleware.trustedhost import TrustedHostMiddleware

from clip2video_pipe.manifests.shards import versions
from clip2video_pipe.models.text import clean
from clip2video_pipe.pipeline.serve.batching import Asked, Batcher
from clip2video_pipe.pipeline.serve.library import Library, Video
from clip2video_pipe.pipeline.serve.limits import Rates, guard

STATIC = Path(__file__).parent / "static"
PAGE = {"": "index.html", "app.js": "app.js", "style.css": "style.css"}
MOST = 100  # hits of a query
FOLDERS = 1000  # that are listed
LONGEST = 500  # characters of a query

Key = Annotated[str, fastapi.Path(description="Of a video, as a search gives it.")]
Seconds = Annotated[float | None, Query(ge=0, le=1e9, allow_inf_nan=False)]


class Shown(BaseModel):
    """A video. `start` and `end` are seconds of its file, null where it is all of it.

    `playable`: whether its file may be asked for, `poster`: whether its picture may.
    """

    key: str
    video_id: str
    folder: str
    start: float | None
    end: float | None
    seconds: float | None
    playable: bool
    poster: bool


class Hit(Shown):
    """A video that was found, and its score as the pipeline has it."""

    score: float


class Answer(BaseModel):
    """What a search found, best first, of `videos` that were looked at."""

    hits: list[Hit]
    videos: int


class Caption(BaseModel):
    """One of a video's own captions, and the rank from 1 that the video has for it; null where it was not scored."""

    text: str
    rank: float | None


class Whole(Shown):
    """All about a video. `playable`: whether its file is on this machine just now."""

    captions: list[Caption]


class Corpus(BaseModel):
    """What is served; `folders` are the first FOLDERS of them."""

    name: str
    videos: int
    folders: list[str]


class Health(BaseModel):
    """That it works."""

    status: str
    videos: int
    version: str


class Refused(BaseModel):
    """Why there is no answer."""

    detail: str


NOT_THERE: dict[int | str, dict[str, Any]] = {404: {"model": Refused, "description": "There is no such video."}}
BAD: dict[int | str, dict[str, Any]] = {
    400: {"model": Refused, "description": "Neither q nor like was given, or both, or q says nothing."}
}


def create_app(library: Library, hosts: list[str], rate: float) -> FastAPI:
    """The application. `hosts`: names that it may be asked by; `rate`: requests a second of one client."""
    batcher = Batcher(library)

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        yield
        batcher.close()

    app = FastAPI(
        title="clip2video-pipe", lifespan=living, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json"
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    app.middleware("http")(guard(Rates(rate)))  # outermost: what the other refuses has its headers, too

    def find(key: str) -> Video:
        if key not in library.at:
            raise HTTPException(404, "there is no such video")
        return library.videos[library.at[key]]

    def shown(video: Video) -> dict[str, Any]:
        said = {name: getattr(video, name) for name in Shown.model_fields if name != "poster"}
        return {**said, "poster": library.posters}

    @app.get("/api/health")
    async def health() -> Health:
        return Health(status="ok", videos=len(library.videos), version=versions().get("clip2video-pipe", ""))

    @app.get("/api/corpus")
    async def corpus() -> Corpus:
        return Corpus(name=library.name, videos=len(library.videos), folders=library.folders[:FOLDERS])

    @app.get("/api/search", responses={**BAD, **NOT_THERE})
    async def search(
        q: Annotated[str | None, Query(max_length=LONGEST, description="What is to be seen, in words.")] = None,
        like: Annotated[str | None, Query(description="A video's key, to find others like it.")] = None,
        k: Annotated[int, Query(ge=1, le=MOST)] = 24,
        folder: Annotated[str | None, Query(max_length=4096)] = None,
        shortest: Seconds = None,
        longest: Seconds = None,
    ) -> Answer:
        if (q is None) == (like is None):
            raise HTTPException(400, "give q, words, or like, a video's key")
        what: str | int
        if like is not None:
            find(like)
            what = library.at[like]
        else:
            assert q is not None
            what = q.encode("utf-8", "replace").decode()
            if not clean(what):
                raise HTTPException(400, "q says nothing")
        found = await batcher.ask(Asked(what, library.wanted(folder, shortest, longest), k))
        hits = [Hit(**shown(library.videos[at]), score=score) for at, score in zip(found.at, found.scores, strict=True)]
        return Answer(hits=hits, videos=len(library.videos))

    @app.get("/api/videos/{key}", responses=NOT_THERE)
    async def video(key: Key) -> Whole:
        one = find(key)
        captions = await batcher.in_thread(lambda: library.captions(one))
        return Whole.model_validate({**shown(one), "playable": library.file(one) is not None, "captions": captions})

    @app.get("/api/videos/{key}/poster", responses=NOT_THERE, response_class=Response)
    async def poster(key: Key) -> Response:
        one = find(key)
        data = await batcher.in_thread(lambda: library.poster(one))
        if data is None:
            raise HTTPException(404, "its frames were not kept")
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    @app.get("/api/videos/{key}/file", responses=NOT_THERE, response_class=FileResponse)
    async def file(key: Key) -> FileResponse:
        found = library.file(find(key))
        if found is None:
            raise HTTPException(404, "its file is not on this machine")
        kind = mimetypes.guess_type(found.name)[0] or ""
        media = kind if kind.startswith("video/") else "application/octet-stream"
        return FileResponse(found, media_type=media, headers={"Cache-Control": "private, max-age=3600"})

    @app.get("/{name}", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page(name: str = "") -> FileResponse:
        if name not in PAGE:
            raise HTTPException(404, "there is no such page")
        return FileResponse(STATIC / PAGE[name], headers={"Cache-Control": "no-cache"})

    return app
