"""Whether runs are going on a store: who deletes from it asks here."""

from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.status import live_runs


def refuse_while_live(store: Store, what: str) -> None:
    """Raises RequestError where a run is going: `what` would take things away from under it."""
    if live := live_runs(store):
        more = f" (and {len(live) - 1} more)" if len(live) > 1 else ""
        raise RequestError(
            f"{what}: a run is going: {store.path(*live[0].parts)}, process {live[0].pid} on {live[0].host}{more}; "
            "wait for its end or stop it"
        )
