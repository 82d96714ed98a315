"""What lies in a store, and which of it is ours: whatever has another name is nobody's business here."""

import re
from collections.abc import Iterator

from clip2video_pipe.manifests import keys
from clip2video_pipe.manifests.manifest import ROOT
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.events import RUNS
from clip2video_pipe.stages.post_scores import POST_STAGES
from clip2video_pipe.stages.similarity import Similarity

SCORING = (Similarity.name, *(stage.name for stage in POST_STAGES.values()))
STAGES = ("videos", "captions", "query_bank", "frames", "video_embeddings", "caption_embeddings", *SCORING)
MEMORIES = ("fingerprints.parquet", "durations.parquet")  # what a store remembers of files
LISTINGS = "listings"  # and of long tables

_KEY = re.compile(rf"[0-9a-f]{{{keys.KEY_LENGTH}}}")
_ITEMS = re.compile(rf"items-[0-9a-f]{{{keys.KEY_LENGTH}}}\.parquet")
_RUN = re.compile(r"\d{8}T\d{6}\.\d{6}Z")
_OF_RUN = re.compile(r"[a-z0-9_-]+\.(json|jsonl|parquet|html)")


def stage_keys(store: Store) -> Iterator[tuple[str, str]]:
    """Each stage and stage key that the store has a folder of."""
    for stage in STAGES:
        yield from ((stage, key) for key in store.folders(stage) if _KEY.fullmatch(key))


def manifests(store: Store) -> Iterator[tuple[str, str]]:
    """Each stage and manifest hash that the store has a folder of."""
    for stage in STAGES:
        yield from ((stage, name) for name in store.folders(ROOT, stage) if _KEY.fullmatch(name))


def listings(store: Store) -> Iterator[tuple[str, str]]:
    """The folder of each listing that the store remembers."""
    return ((LISTINGS, name) for name in store.folders(LISTINGS) if _KEY.fullmatch(name))


def is_items(file: str) -> bool:
    """Whether a file of a manifest's folder is a table of items."""
    return _ITEMS.fullmatch(file) is not None


def run_names(store: Store) -> list[str]:
    """Names of configs that ran."""
    return store.folders(RUNS)


def runs(store: Store, name: str) -> list[str]:
    """A config's runs, the oldest first."""
    return [stamp for stamp in store.folders(RUNS, name) if _RUN.fullmatch(stamp)]


def is_of_run(file: str) -> bool:
    """Whether a file of a run's folder is one that runs write."""
    return _OF_RUN.fullmatch(file) is not None
