"""What the documents and `deploy/` tell people to type is understood by what they type it to."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FILES = [*DOCUMENTS, *sorted(path for path in (ROOT / "deploy").iterdir() if path.is_file())]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_commands_of_the_pipeline(path, said, parsed):
    for words in said("clip2video-pipe", path.read_text()):
        if "[" not in words:  # a usage line
            parsed(words)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_commands_of_ray(path, said, parsed):
    for words in said("ray (?:start|up|down|exec|rsync-up)", path.read_text()):
        if "--" in words:
            parsed(words.replace('"$cpus"', "1").replace('"$port"', "1"))


def test_commands_are_found(said, parsed):
    text = "`clip2video-pipe run a.yaml`\nsrun -N 1 \\\n  ray start --head \\\n  --port=1 &\n"
    text += " entrypoint: clip2video-pipe plan b --x"
    assert list(said("clip2video-pipe", text)) == ["clip2video-pipe run a.yaml", "clip2video-pipe plan b --x"]
    assert list(said("ray start", text)) == ["ray start --head --port=1"]
    with pytest.raises(Exception, match="No such option"):
        parsed("clip2video-pipe plan b --x")


def test_each_file_has_commands(said):
    found = {path.name: list(said("clip2video-pipe", path.read_text())) for path in FILES}
    names = ("README.md", "cluster.md", "commands.md", "rayjob.yaml", "slurm.sh")
    assert all(found[name] for name in names), found


def test_slurm_starts_a_head_and_workers(said):
    calls = said("ray start", (ROOT / "deploy" / "slurm.sh").read_text())
    head, workers = (words for words in calls if "--num-cpus" in words)
    assert "--head" in head and "--address" in workers
