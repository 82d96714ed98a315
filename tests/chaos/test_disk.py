"""A disk that is full, or turns read-only, ends a run in a line; what was finished stays, and the next run goes on."""

import shutil
import subprocess

import pytest


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a file system of so many bytes below the store's folder."""
    mounted = []

    def mount(folder, size):
        folder.mkdir(parents=True)
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            pytest.skip(f"nothing can be mounted here: {made.stderr.strip()}")
        mounted.append(folder)

    if shutil.which("mount") is None:
        pytest.skip("there is no command `mount`")
    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@pytest.mark.parametrize("size", ["8k", "60k", "120k", "180k", "220k"])
def test_full(corpus, undisturbed, disk, size):
    disk(corpus.store, size)
    code, out = corpus.command()
    assert code in (1, 2), out
    assert "No space left on device" in out.splitlines()[-1]
    assert "Traceback" not in out
    before = corpus.shards()
    assert not list(corpus.store.rglob(".*.tmp"))
    remount(corpus.store, "size=100m")
    corpus.run()
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert corpus.is_as(undisturbed)


def test_read_only_from_the_start(corpus, undisturbed, disk):
    disk(corpus.store, "100m")
    remount(corpus.store, "ro")
    code, out = corpus.command()
    assert code == 2, out
    assert "cannot be written to: Read-only file system" in out.splitlines()[-1]
    remount(corpus.store, "rw")
    corpus.run()
    assert corpus.is_as(undisturbed)


def test_read_only_when_all_is_there(corpus, disk):
    """Figures can still be looked at: `plan` writes nothing."""
    disk(corpus.store, "100m")
    corpus.run()
    remount(corpus.store, "ro")
    code, out = corpus.command(command="plan")
    assert code == 0 and "cached" in out
