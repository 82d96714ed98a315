"""Python imports this at its start where the folder is on PYTHONPATH: so the workers of a cluster have faults, too.

What has to happen is said in the file that CHAOS_FILE names: JSON, a list of `{"at", "do", "nth", "once"}`.
"""

import json
import os


def fault(name, spec, counts):
    """Do what `spec` says when its point is passed the nth time; with `once`, a path, in one process of all only."""
    import errno
    import re
    import signal
    import time

    if not re.search(spec["at"], name):
        return
    key = json.dumps(spec)
    counts[key] = counts.get(key, 0) + 1
    if counts[key] != spec.get("nth", 1) and spec.get("nth") != "every":
        return
    if spec.get("once"):
        try:
            os.close(os.open(spec["once"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    if spec["do"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif spec["do"] == "stop":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
    elif spec["do"] == "hang":
        time.sleep(10**6)
    elif spec["do"] == "sleep":
        time.sleep(spec["seconds"])
    elif spec["do"] == "note":
        notes = os.open(spec["file"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.write(notes, f"{name}\n".encode())
        os.close(notes)
    else:
        number = getattr(errno, spec["do"])
        raise OSError(number, os.strerror(number))


def install(specs):
    """Have these faults from now on; `specs` gives them each time."""
    from clip2video_pipe.manifests import faults

    counts = {}

    def hook(name):
        for spec in specs():
            fault(name, spec, counts)

    faults.hook = hook


def said_by(path):
    try:
        with os.fdopen(os.open(path, os.O_RDONLY)) as file:
            return json.loads(file.read() or "[]")
    except FileNotFoundError:
        return []


if os.environ.get("CHAOS_FILE"):
    install(lambda: said_by(os.environ["CHAOS_FILE"]))
