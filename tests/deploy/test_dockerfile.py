"""`deploy/Dockerfile`, as far as it can be held without a Docker daemon: read, its shell checked, its wheel built."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KNOWN = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "CMD", "LABEL"}


@pytest.fixture(scope="module")
def stages(deploy):
    """Each stage's instructions: name and arguments."""
    text = (deploy / "Dockerfile").read_text()
    lines = re.sub(r"\\\n", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    found = [[]]
    for name, _, rest in (line.partition(" ") for line in lines if line.strip()):
        if name == "FROM":
            found.append([])
        found[-1].append((name, rest.strip()))
    return found[1:]  # what stands before the first is for the FROMs alone


def copied(stage):
    """Sources in the repository, and where each goes."""
    for name, rest in stage:
        words = rest.split()
        if name == "COPY" and not words[0].startswith("--from"):
            yield from ((source, words[-1]) for source in words[:-1])


def test_instructions_are_known(stages):
    assert {name for stage in stages for name, _ in stage} <= KNOWN
    names = {rest.split()[-1] for stage in stages for name, rest in stage if name == "FROM" and " AS " in rest}
    used = {
        word.partition("=")[2] for stage in stages for _, rest in stage for word in rest.split() if "--from=" in word
    }
    assert used <= names


def test_shell_of_run_is_shell(stages):
    for stage in stages:
        for name, rest in stage:
            if name == "RUN":
                subprocess.run(["sh", "-n", "-c", rest], check=True)


def test_it_ends_as_somebody_without_rights(stages):
    users = [rest for name, rest in stages[-1] if name == "USER"]
    assert users and users[-1] not in ("0", "root")
    after = stages[-1][stages[-1].index(("USER", users[-1])) :]
    assert not [name for name, _ in after if name in ("RUN", "COPY")]


def test_sources_are_there_and_let_through(stages, deploy):
    let_through = {
        line[1:] for line in (deploy / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    }
    sources = {source for stage in stages for source, _ in copied(stage)}
    assert sources == let_through
    assert all((ROOT / source).exists() for source in sources)


def test_what_is_copied_makes_the_whole_wheel(stages, tmp_path):
    source = tmp_path / "source"
    for name, to in copied(stages[0]):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / to, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (source / to).mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / to)
    [build] = [rest for name, rest in stages[0] if name == "RUN" and rest.startswith("pip wheel")]
    words = build.replace("/wheels", str(tmp_path)).split()
    subprocess.run([sys.executable, "-m", *words], check=True, cwd=source, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    folders = ("conf", "manifests", "models", "pipeline", "stages")
    ours = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    left_out = ("__pycache__", ".pyc")
    expected = {f"clip2video_pipe/{path.relative_to(ROOT)}" for path in ours if path.is_file()}
    assert packed == {name for name in expected if not any(part in name for part in left_out)}
