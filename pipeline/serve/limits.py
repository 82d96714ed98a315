"""What every answer carries, and what no client may do: too much at a time, or from another site's page."""

import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
CLIENTS = 10_000  # that are remembered

LOG = logging.getLogger("uvicorn.error")  # where what serves says what is wrong
Next = Callable[[Request], Awaitable[Response]]


class Rates:
    """How many requests a client may make: `rate` a second, and as many at once."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # of a client, and when that was

    def allows(self, client: str) -> bool:
        now = self._clock()
        left, then = self._left.pop(client, (self._rate, now))
        left = min(self._rate, left + (now - then) * self._rate)
        allowed = left >= 1
        self._left[client] = (left - allowed, now)
        if len(self._left) > CLIENTS:
            self._left.popitem(last=False)
        return allowed


def guard(rates: Rates) -> Callable[[Request, Next], Awaitable[Response]]:
    """A middleware that refuses what comes too fast with 429, and gives every answer HEADERS."""

    async def guarded(request: Request, call_next: Next) -> Response:
        client = request.client.host if request.client else ""
        response: Response
        if not rates.allows(client):
            said = {"detail": "too many requests; wait a second"}
            response = JSONResponse(said, 429, headers={"Retry-After": "1"})
        else:
            try:
                response = await call_next(request)
            except Exception:
                LOG.exception("a request failed")
                response = JSONResponse({"detail": "the server failed; its messages say why"}, 500)
        response.headers.update(HEADERS)
        if request.url.path.startswith("/api/"):
            response.headers.setdefault("Cache-Control", "no-store")
        return response

    return guarded
