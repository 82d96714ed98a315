"""Other runs on the same store: what they finish in the meantime is not computed here."""

import random
import time
from collections.abc import Collection, Sequence

from clip2video_pipe.manifests import keys
from clip2video_pipe.manifests.shards import Shard, find_shard
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.schedule import Unit
from clip2video_pipe.pipeline.status import live_runs

LOOK_EVERY = 5.0  # seconds between looks at who else is going


class Sharing:
    """Whether others are going on a store beside the run whose folder is `run`, and what they have finished.

    Each takes its units in an order of its own, so that they meet seldom, and looks for a unit's shard before it
    begins: at most what both have in hand at a time is computed twice, and the same file written.
    """

    def __init__(self, store: Store, run: Sequence[str], retry: Collection[str]) -> None:
        self._store = store
        self._run = tuple(run)
        self._retry = bool(retry)
        self._looked = float("-inf")
        self._others = False

    @property
    def others(self) -> bool:
        """Whether there are some, as of a moment ago."""
        if time.monotonic() - self._looked > LOOK_EVERY:
            self._others = bool(live_runs(self._store, besides=self._run))
            self._looked = time.monotonic()
        return self._others

    @property
    def shuffle(self) -> random.Random | None:
        """An order of this run's own, where there are others."""
        return random.Random("/".join(self._run)) if self.others else None

    def find(self, unit: Unit) -> Shard | None:
        """The unit's shard, if another run has written it, and none of its items is to be tried again."""
        if not self.others:
            return None
        identity = unit.job.stage.identity
        name = keys.shard_name(identity.key, unit.items)
        shard = find_shard(self._store, identity.stage, identity.key, name)
        if shard is None or any(said.passing or (said.error and self._retry) for _, said in shard.unusual):
            return None
        return shard
