"""Where the command line begins. It imports next to nothing, so that a `search` has its model on the way at once."""

import contextlib
import gc
import sys

from clip2video_pipe.pipeline.aside import started


def main() -> int:
    """Run the command line and give its exit code, as `cli.main` does."""
    searches = sys.argv[1:2] == ["search"] and "--help" not in sys.argv
    if searches:
        gc.disable()  # to look for garbage among what was imported would take a fifth of the time
    with started() if searches else contextlib.nullcontext():
        from clip2video_pipe.pipeline.cli import main as run

        return run()
