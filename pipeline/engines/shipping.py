"""Sending this package to the workers of a cluster that has what it needs, but not itself (`run.ship_code`)."""

import shutil
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PACKAGE = __name__.partition(".")[0]
PARTS = ("conf", "manifests", "models", "pipeline", "stages")


def runtime_env(ship_code: bool) -> dict[str, Any] | None:
    """What `ray.init` is told, which sends the code before it returns; None where each worker has it installed."""
    return {"py_modules": [str(Path(_collected().name, PACKAGE))]} if ship_code else None


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
