import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small():
    """The module small.py."""
    spec = importlib.util.spec_from_file_location("small", Path(__file__).parent / "small.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
