"""Frames that nothing needs any more: with `run.keep_frames: false` their shards go as soon as they are embedded."""

from collections import Counter
from collections.abc import Sequence

from clip2video_pipe.manifests.manifest import ROOT, load
from clip2video_pipe.manifests.shards import Shard, remove_shard
from clip2video_pipe.pipeline.plan import Step


class SpentFrames:
    """Counts, for each shard of frames that this run embeds, the items that are left, and removes it when none is.

    A shard that a manifest names stays: another config keeps its frames, and counts on it. So does one with items
    that have no vectors and that this run does not know; `gc` tells whether any config needs it.
    """

    def __init__(self, frames: Step, embeddings: Step) -> None:
        self._frames, self._embeddings = frames, embeddings
        self._read: set[str] = set()  # manifests
        needed = set(embeddings.missing)
        strange = set(embeddings.places.missing([item for item in frames.places if item not in needed]))
        self._kept: set[str] = set()
        self._left = Counter[str]()
        for shard, items in frames.places.by_shard():
            self._left[shard] = len(needed.intersection(items))
            if not strange.isdisjoint(items):
                self._kept.add(shard)

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
        self._look()
        if shard not in self._kept:
            remove_shard(self._frames.store, self._frames.name, self._frames.identity.key, shard)

    def _look(self) -> None:
        """Another run may have finished since, and named shards that it has from this one."""
        store, stage, key = self._frames.store, self._frames.name, self._frames.identity.key
        for name in store.folders(ROOT, stage):
            manifest = None if name in self._read else load(store, stage, name)
            if manifest:
                self._read.add(name)
                if manifest.key == key:
                    self._kept.update(manifest.info["shards"])
