"""A process that has everything imported, and forks a command line for each line that it reads.

A line is JSON: `argv`, `chaos` (see site/sitecustomize.py), `out` (a file for what it prints), `wait`; or `join`, a
process id. The answer is a line with `pid`, and `code` where it was waited for.
"""

import json
import os
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "site"))

import sitecustomize
import torch  # noqa: F401

from clip2video_pipe.models import packed, text, weights  # noqa: F401
from clip2video_pipe.pipeline import cli
from clip2video_pipe.pipeline.engines import inline  # noqa: F401


def child(ask):
    os.setpgid(0, 0)
    out = os.open(ask["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for handle in (1, 2):
        os.dup2(out, handle)
    os.close(0)
    sitecustomize.install(lambda: ask["chaos"])
    code = cli.main(ask["argv"])
    sys.stdout.flush()
    os._exit(code)


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


for line in sys.stdin:
    ask = json.loads(line)
    answer = {"pid": ask.get("join")}
    if "join" not in ask:
        answer["pid"] = os.fork()
        if not answer["pid"]:
            try:
                child(ask)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(99)
    if "join" in ask or ask["wait"]:
        answer["code"] = ended(answer["pid"])
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
