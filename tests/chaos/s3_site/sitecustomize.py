"""Python imports this at its start where the folder is on PYTHONPATH: a process that dies at a point, and waits less.

KILL_AT: a pattern; the first point of `manifests/faults.py` that fits it is the process's last.
"""

import os
import re
import signal
import sys

if "clip2video_pipe.pipeline.cli" in sys.orig_argv:
    from clip2video_pipe.manifests import faults, retries

    retries.WAITS = (0.05, 0.05, 0.05)

    def hook(name):
        if re.search(os.environ["KILL_AT"], name):
            os.kill(os.getpid(), signal.SIGKILL)

    if os.environ.get("KILL_AT"):
        faults.hook = hook
