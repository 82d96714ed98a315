"""Queries that come at the same time are embedded and scored together: one pass over the vectors for all of them."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from clip2video_pipe.pipeline.search import best
from clip2video_pipe.pipeline.serve.library import Library, Mask
from clip2video_pipe.stages.vectors import Floats

MOST = 32  # queries of a batch

Thing = TypeVar("Thing")


class Asked(NamedTuple):
    """A text, or the position of a video to find others like it; of which videos, and how many."""

    what: str | int
    mask: Mask | None
    k: int


class Found(NamedTuple):
    """Positions of the best videos, best first, and their scores."""

    at: list[int]
    scores: list[float]


class Batcher:
    """Gathers what is asked while a batch is computed, and computes it with the next; one thread computes."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._waiting: list[tuple[Asked, asyncio.Future[Found]]] = []
        self._going: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "queries")

    async def ask(self, asked: Asked) -> Found:
        """The answer to one query. Raises what its batch raised."""
        answer: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        if self._going is None or self._going.done():
            self._going = asyncio.create_task(self._compute())
        return await answer

    async def _compute(self) -> None:
        while self._waiting:
            waiting = [one for one in self._waiting if not one[1].done()]  # who asked may have gone
            some, self._waiting = waiting[:MOST], waiting[MOST:]
            if some:
                await self._answer(some)

    async def _answer(self, some: Sequence[tuple[Asked, asyncio.Future[Found]]]) -> None:
        try:
            found = await self.in_thread(lambda: answers(self._library, [asked for asked, _ in some]))
        except Exception as error:
            if len(some) > 1:  # one of them is to blame
                for single in some:
                    await self._answer([single])
            elif not some[0][1].done():
                some[0][1].set_exception(error)
            return
        for (_, answer), one in zip(some, found, strict=True):
            if not answer.done():
                answer.set_result(one)

    async def in_thread(self, compute: Callable[[], Thing]) -> Thing:
        """Something else that reads the store, in the same thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, compute)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)


def answers(library: Library, asked: Sequence[Asked]) -> list[Found]:
    """The best videos of each query; one that is like a video does not find that video itself."""
    texts = [one.what for one in asked if isinstance(one.what, str)]
    embedded = iter(library.embed(texts)) if texts else iter(())
    vectors = np.stack([next(embedded) if isinstance(one.what, str) else library.vector(one.what) for one in asked])
    return [_best(one, row) for one, row in zip(asked, library.scores(vectors), strict=True)]


def _best(asked: Asked, scores: Floats) -> Found:
    if asked.mask is not None:
        scores[~asked.mask] = -np.inf
    if isinstance(asked.what, int):
        scores[asked.what] = -np.inf
    order = best(scores, asked.k)
    return Found(order.tolist(), scores[order].tolist())
