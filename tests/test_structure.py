"""Who may import whom (`docs/design.md`), held by reading the imports."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = "clip2video_pipe"
FOLDERS = ("conf", "manifests", "models", "pipeline", "stages")
MAY_IMPORT = {
    "conf": set(),
    "manifests": {"manifests"},
    "models": {"models"},
    "stages": {"stages", "models", "manifests"},
    "pipeline": set(FOLDERS),
}
FILES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]


def imports(path):
    """Each module that a file imports, and whether at its top."""
    tree = ast.parse(path.read_text())
    top = set(tree.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node in top


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_the_right_way(path):
    folder = path.relative_to(ROOT).parts[0]
    for module, at_top in imports(path):
        package, _, rest = module.partition(".")
        if package == OURS:
            assert rest.partition(".")[0] in MAY_IMPORT[folder], f"{folder} may not import {module}"
        if package == "ray":
            trains = path.parent.name == "training" and not at_top
            carries = path.name in ("ray_engine.py", "replicas.py")
            assert carries or trains, "only what carries work or the page on Ray imports it, and training when it does"
        if package == "torch":
            assert folder == "models" or path.parent.name == "training" or (folder == "stages" and not at_top), (
                "torch is imported by models, by training, and by stages when they compute"
            )


def test_every_folder_is_packaged():
    text = (ROOT / "pyproject.toml").read_text()
    for path in FILES:
        package = ".".join((OURS, *path.parent.relative_to(ROOT).parts))
        assert f'"{package}"' in text, f"{package} is missing from pyproject.toml"
