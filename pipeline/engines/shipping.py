"""Sending this package to the workers of a cluster that has what it needs, but not itself (`run.ship_code`)."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clip2video_pipe.pipeline.errors import EngineError

PACKAGE = __name__.partition(".")[0]
PARTS = ("conf", "manifests", "models", "pipeline", "stages")


def runtime_env(ship_code: bool) -> dict[str, Any] | None:
    """What `ray.init` is told, which sends the code before it returns; None where each worker has it installed."""
    return {"py_modules": [str(Path(_collected().name, PACKAGE))]} if ship_code else None


@contextmanager
def code_is_there() -> Iterator[None]:
    """Turn the stack trace of a worker that lacks this package, or has an older one, into an EngineError."""
    try:
        yield
    except Exception as error:
        if f"No module named '{PACKAGE}" in str(error):
            raise EngineError(
                "a worker of the cluster does not have this package, or has an older one: "
                "install the same wheel on each node, or set run.ship_code: true"
            ) from error
        raise


@cache
def _collected() -> "TemporaryDirectory[str]":
    """One folder with the whole package under its name, until this process ends.

    An installed wheel has such a folder, a checkout has only its parts.
    """
    folder = TemporaryDirectory(prefix=f"{PACKAGE}-", ignore_cleanup_errors=True)
    for part in PARTS:
        spec = find_spec(f"{PACKAGE}.{part}")
        assert spec is not None and spec.submodule_search_locations is not None
        [where] = spec.submodule_search_locations
        shutil.copytree(where, Path(folder.name, PACKAGE, part), ignore=shutil.ignore_patterns("__pycache__"))
    return folder
