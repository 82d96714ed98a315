"""What the checks of `deploy/` share: where it is, and the options that Ray and the pipeline know."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def deploy():
    return ROOT / "deploy"


@pytest.fixture(scope="session")
def parsed():
    """A function that parses words as a click command would, without running it, and gives its parameters."""
    from ray.scripts.scripts import cli as ray
    from typer.main import get_command

    from clip2video_pipe.pipeline.cli import app

    def parse(words):
        program, *rest = shlex.split(words) if isinstance(words, str) else list(words)
        command = {"ray": ray, "clip2video-pipe": get_command(app)}[program]
        while hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        return command.make_context(program, rest).params

    return parse


@pytest.fixture(scope="session")
def said():
    """A function that finds the calls of a program in a text: each up to the end of its command."""

    def find(program, text):
        text = re.sub(r"\s*\\\n\s*", " ", text).replace(' "$@"', "")
        # Only where a command starts: a line, code in a sentence, or what follows another command, srun or a quote.
        starts = r"(?:^|[`;&'\"]|entrypoint:|bin/)[ \t]*(?:srun .*?)?"
        for call in re.finditer(rf"{starts}\b({program} [^`;&|#\n]*)", text, re.MULTILINE):
            words = call[1].strip()
            yield words[:-1] if words.count("'") % 2 or words.count('"') % 2 else words

    return find
