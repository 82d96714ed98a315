"""Whether runs are going on a store: who deletes from it asks here."""

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.contents import run_names
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.run import RUNS
from clip2video_pipe.pipeline.status import last_run


def refuse_while_live(store: Store, what: str) -> None:
    """Raises RequestError where a run is going: `what` would take things away from under it."""
    if live := going(store):
        more = f" (and {len(live) - 1} more)" if len(live) > 1 else ""
        raise RequestError(
            f"{what}: a run is going: {live[0]}{more}; wait for its end or stop it. If its machine is gone, "
            "start the config again and let it end, or delete that folder"
        )


def going(store: Store) -> list[str]:
    """Folders of runs that are going, as far as can be told."""
    last = (last_run(store, name) for name in run_names(store) if store.folders(RUNS, name))
    return [run["run_dir"] for run in last if run["state"] == "running"]
