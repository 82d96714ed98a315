"""Where the command line begins. It imports next to nothing, so that a `search` has its model on the way at once."""

import contextlib
import gc
import sys

from clip2video_pipe.pipeline.aside import hurry, started


def main() -> int:
    """Run the command line and give its exit code, as `cli.main` does."""
    searches = sys.argv[1:2] == ["search"] and "--help" not in sys.argv
    if searches:
        hurry()
    with started() if searches else contextlib.nullcontext():
        from clip2video_pipe.pipeline.cli import main as run

        code = run()
        gc.freeze()  # or at the end all of it would be looked through
        return code
