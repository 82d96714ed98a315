"""The page on Ray Serve: replicas of it on a cluster's machines, behind one address at its head."""

import io
import ipaddress
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError

from clip2video_pipe.pipeline.engines.ray_engine import connect
from clip2video_pipe.pipeline.errors import EngineError, RequestError, first_line
from clip2video_pipe.pipeline.settings import Config

SOON = 3.0  # seconds until Ray says that cores are free which somebody has just left
TOGETHER = 64  # requests that a replica works at: its searches wait for one another, and are computed together
HEAD = "node:__internal_head__"  # what Ray calls the node that a cluster began with
WAITING = 512  # more than those; then the answer is 503


@contextmanager
def served(config: Config, hosts: list[str], rate: float, address: tuple[str, int], count: int) -> Iterator[str]:
    """`count` replicas of `create_app(..., hosts, rate)`, a core each, that answer while it is entered.

    They are on the cluster at `run.address`, or on one that is started for them, and listen at `address` of its head;
    each opens the store itself. Gives the host by which they are reached. Raises RequestError, or EngineError for what
    becomes of them.
    """
    started = connect(config.run.address, config.run.ship_code)
    try:
        host, port = address
        reached = _reached(host)
        _check_free(count)
        quiet = {"log_level": "ERROR", "enable_access_log": False}
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port}, logging_config=quiet)
        try:
            page = serve.deployment(
                name="page",
                num_replicas=count,
                ray_actor_options={"num_cpus": 1, "num_gpus": config.embed.device == "cuda"},
                max_ongoing_requests=TOGETHER,
                max_queued_requests=WAITING,
                max_constructor_retry_count=1,
                graceful_shutdown_wait_loop_s=0.1,
                graceful_shutdown_timeout_s=1,
                logging_config=quiet,
            )
            app = serve.ingress(_app_of(config, Path.cwd(), hosts, rate))()
            serve.run(page(app).bind(), name=config.name, logging_config=quiet)
            yield reached
        except (RuntimeError, RayError) as error:
            raise EngineError(f"serve: the replicas do not start: {first_line(error)}") from error
        finally:
            if not (started and config.run.address == "local"):  # or all of it ends at once
                with redirect_stdout(io.StringIO()):  # Ray prints that the controller is dead, as it has to be
                    serve.shutdown()  # type: ignore[no-untyped-call]
    finally:
        if started:
            ray.shutdown()


def _reached(host: str) -> str:
    """The host by which what listens at `host` of the cluster's head is reached from here. Raises RequestError."""
    nodes = [node for node in ray.nodes() if HEAD in node["Resources"]]  # type: ignore[no-untyped-call]
    here = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    head = nodes[0]["NodeManagerAddress"] if nodes else here
    if head == here:
        return host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_loopback:
        raise RequestError(
            f"serve: --host {host} reaches nobody: the cluster's head is another machine, {head}; give --host {head}, "
            "and --name what others call it by"
        )
    return head if address.is_unspecified else host


def _check_free(count: int) -> None:
    until = time.monotonic() + SOON
    while count > (free := ray.available_resources().get("CPU", 0.0)):  # type: ignore[no-untyped-call]
        if time.monotonic() < until:
            time.sleep(0.2)
            continue
        raise RequestError(f"serve: --replicas is {count}, but {free:g} cores of the cluster are free")
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return
    raise RequestError(
        "serve: Ray Serve runs on this cluster already, for somebody else or left by a 'serve' that was killed: 'serve "
        "shutdown', which comes with Ray, ends it; or use another cluster"
    )


def _app_of(config: Config, folder: Path, hosts: list[str], rate: float) -> Callable[[], Any]:
    """What a replica calls to have the page."""

    def build() -> Any:
        from clip2video_pipe.pipeline.plan import make_plan
        from clip2video_pipe.pipeline.serve.app import create_app
        from clip2video_pipe.pipeline.serve.library import Library

        os.chdir(folder)  # paths of a config may be relative
        library = Library(make_plan(config, again=False))
        library.load()
        return create_app(library, hosts, rate)

    return build
