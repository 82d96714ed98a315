"""Other runs on the same store: what they finish in the meantime is not computed here."""

import contextlib
import random
import threading
import time
from collections.abc import Collection, Sequence

from clip2video_pipe.manifests import keys
from clip2video_pipe.manifests.shards import Shard, find_shard
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.schedule import Unit
from clip2video_pipe.pipeline.status import LiveRuns

LOOK_EVERY = 5.0  # seconds between looks at who else is going


class Sharing:
    """Whether others are going on a store beside the run whose folder is `run`, and what they have finished.

    Each begins elsewhere, so that they meet seldom, and looks for a unit's shard before it begins: at most what both
    have in hand at a time is computed twice, and the same file written.
    """

    def __init__(self, store: Store, run: Sequence[str], retry: Collection[str]) -> None:
        self._store = store
        self._retry = bool(retry)
        self._runs = LiveRuns(store, besides=run)
        self._others: bool | None = None
        self._looked = 0.0
        self._looking: threading.Thread | None = None

    @property
    def others(self) -> bool:
        """Whether there are some, as of the last look. A thread looks: a store far away takes its time to answer."""
        if self._others is None:
            self._others, self._looked = bool(self._runs.look()), time.monotonic()
        under_way = self._looking is not None and self._looking.is_alive()
        if time.monotonic() - self._looked > LOOK_EVERY and not under_way:
            self._looked = time.monotonic()
            self._looking = threading.Thread(target=self._look, name="other runs", daemon=True)
            self._looking.start()
        return self._others

    def _look(self) -> None:
        with contextlib.suppress(Exception):  # whatever it is: the answer stays what it was
            self._others = bool(self._runs.look())

    @property
    def start(self) -> float:
        """Which part of the way through its items the run begins: at the first one, where there are no others."""
        return random.random() if self.others else 0.0

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
