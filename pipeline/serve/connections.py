"""What one client, or all of them, may hold of the server: connections, and bytes that are no request yet."""

import asyncio
from typing import cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

ALL, EACH = 512, 128  # connections at a time: of all clients, and of one address
PATIENCE = 10.0  # seconds until a connection has asked for something, at first and again
HEAD = 65536  # bytes of a request's first line and headers


def settings(app: FastAPI) -> uvicorn.Config:
    """How uvicorn serves the page. Clients are whom the connection is with, whatever a header says."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=ALL,
        h11_max_incomplete_event_size=HEAD,
    )


class Connection(H11Protocol):
    """A connection that is closed where its client has EACH already, or asks for nothing."""

    _patience: asyncio.TimerHandle | None = None
    _answered: object = None  # the request before this wait

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        theirs = [one for one in cast(set[Connection], self.connections) if one.client and one.client[0] == self._host]
        if len(theirs) > EACH:
            transport.abort()
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._no_longer()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._wait()
        super().on_response_complete()  # which may find the next request there already

    def _wait(self) -> None:
        self._no_longer()
        self._answered = self.cycle
        self._patience = self.loop.call_later(PATIENCE, self._give_up)

    def _no_longer(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    @property
    def _host(self) -> str:
        return self.client[0] if self.client else ""

    def _give_up(self) -> None:
        if self.cycle is self._answered:  # no other request since
            self.transport.abort()
