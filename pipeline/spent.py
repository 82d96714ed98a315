"""Frames that nothing needs any more: with `run.keep_frames: false` their shards go as soon as they are embedded."""

from collections import Counter
from collections.abc import Sequence

from clip2video_pipe.manifests.manifest import named_shards
from clip2video_pipe.manifests.shards import Shard, remove_shard
from clip2video_pipe.pipeline.plan import Step


class SpentFrames:
    """Counts, for each shard of frames, the items that have yet to be embedded, and removes those that have none.

    A shard that a manifest names stays: another config keeps its frames, and counts on it.
    """

    def __init__(self, frames: Step, embeddings: Step) -> None:
        self._frames, self._embeddings = frames, embeddings
        self._kept = named_shards(frames.store, frames.name, frames.identity.key)
        needed = set(embeddings.missing)
        self._left = Counter[str]()
        unknown = set()  # shards with frames of other configs' items, which may not be embedded yet
        for shard, items in frames.places.by_shard():
            others = [item for item in items if item not in needed]
            self._left[shard] = len(items) - len(others)
            if embeddings.places.missing(others):
                unknown.add(shard)
        self._kept |= unknown
        for shard in [shard for shard, left in self._left.items() if not left]:
            self._remove(shard)  # of a run that was killed before it came to that

    def decoded(self, items: Sequence[str], shard: Shard) -> None:
        """It was written, for items that are to be embedded, if another run has not done so meanwhile."""
        self._left[shard.name] = sum(item not in self._embeddings.places for item in items)
        if not self._left[shard.name]:
            self._remove(shard.name)

    def embedded(self, items: Sequence[str], shard: Shard) -> None:
        """These items' vectors are in the store."""
        for item in items:
            if item not in self._frames.places:
                continue  # another run did both
            frames = self._frames.places[item].shard
            self._left[frames] -= 1
            if not self._left[frames]:
                self._remove(frames)

    def _remove(self, shard: str) -> None:
        if shard not in self._kept:
            remove_shard(self._frames.store, self._frames.name, self._frames.identity.key, shard)
