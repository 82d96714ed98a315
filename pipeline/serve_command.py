"""The command `clip2video-pipe serve`."""

import contextlib
import ipaddress
import re
import socket
import threading
import webbrowser
from enum import StrEnum
from typing import Annotated, Any

import typer

from clip2video_pipe.pipeline.config import load_config
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.options import ConfigPath, Overrides
from clip2video_pipe.pipeline.plan import make_plan
from clip2video_pipe.pipeline.words import several

BACKLOG = 2048


class Engine(StrEnum):
    """What carries the page."""

    inline = "inline"
    ray = "ray"


def serve_page(
    config: ConfigPath,
    host: Annotated[str, typer.Option("--host", help="The address to listen at; 0.0.0.0: all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: one that is free.")] = 8000,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name", help="A name that others reach this machine by, where --host is not this machine alone."
        ),
    ] = None,
    rate: Annotated[float, typer.Option("--rate", min=1, help="Requests a second that one client may make.")] = 1000,
    engine: Annotated[
        Engine, typer.Option("--engine", help="inline: in this process; ray: in replicas on Ray Serve.")
    ] = Engine.inline,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="How many, a core each, with --engine ray.")] = 2,
    show: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    overrides: Overrides = None,
) -> None:
    """Serve a page to search the corpus with, and a JSON API. The embeddings have to be there."""
    loaded = load_config(config, overrides or [])
    plan = make_plan(loaded, again=False)
    elsewhere = engine == Engine.ray and loaded.run.address != "local"
    if elsewhere and port == 0:
        raise RequestError("serve: --port 0: which one is free on the cluster's head is not known here; give one")
    listening = None if elsewhere else _listen(host, port)
    port = listening.getsockname()[1] if listening else port

    from clip2video_pipe.pipeline.serve.library import Library

    library = Library(plan)
    names = _names(host, name or [])

    def say(host: str) -> None:
        address = f"http://{_shown(host)}:{port}/"
        typer.echo(f"{several(len(library.videos), 'video')} of {library.name} at {address}; Ctrl-C ends it")
        if show:
            threading.Timer(0.5, webbrowser.open, [address]).start()

    if engine == Engine.ray:
        served = _replicas()
        if listening:
            listening.close()
        with contextlib.suppress(KeyboardInterrupt), served(loaded, names, rate, (host, port), replicas) as found:
            say(found)
            threading.Event().wait()
        return
    assert listening is not None

    import uvicorn

    from clip2video_pipe.pipeline.serve.app import create_app
    from clip2video_pipe.pipeline.serve.connections import settings

    library.load()
    app = create_app(library, names, rate)
    say(host)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(settings(app)).run(sockets=[listening])


def _replicas() -> Any:
    try:
        from clip2video_pipe.pipeline.serve.replicas import served
    except ImportError as error:
        raise RequestError(
            f"serve: --engine ray needs Ray Serve: pip install 'clip2video-pipe[replicas]' ({error})"
        ) from error
    return served


def _listen(host: str, port: int) -> socket.socket:
    """A socket that is bound already, so that what is wrong is said before anything is loaded. Raises RequestError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise RequestError(f"serve: {host}:{port}: {error.strerror}; give another --host or --port") from error
    listening.listen(BACKLOG)
    return listening


def _shown(host: str) -> str:
    """A listening address as it stands in a URL that leads there from this machine."""
    if host in ("0.0.0.0", "::"):  # noqa: S104
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"  # noqa: S104
    return f"[{host}]" if ":" in host else host


def _names(host: str, names: list[str]) -> list[str]:
    """What a request may say that it is for: a page elsewhere that has its name point here reaches nothing."""
    for name in names:
        if not re.fullmatch(r"(\*\.)?[\w-]+(\.[\w-]+)*", name):
            raise RequestError(f"serve: --name {name!r}: has to be a name like videos.example.org or *.example.org")
    try:
        everywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        everywhere = False
    if everywhere and not names:
        return ["*"]
    return ["localhost", "127.0.0.1", "[::1]", _shown(host), *names]
