"""Which failures `run --retry` tries again."""

import difflib
from collections.abc import Sequence
from typing import get_args

from clip2video_pipe.manifests.manifest import failure_classes
from clip2video_pipe.manifests.schemas import FAILED
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.stages.decoding.failures import Failure
from clip2video_pipe.stages.listing import EMPTY_CAPTION
from clip2video_pipe.stages.scoring import NO_CAPTIONS, NOT_FINITE

CLASSES = (FAILED, *get_args(Failure), EMPTY_CAPTION, NO_CAPTIONS, NOT_FINITE)


def classes_to_retry(said: Sequence[str], store: Store) -> tuple[str, ...]:
    """The classes in words such as `timeout` or `timeout,crashed`; FAILED stands for all.

    Raises RequestError for one that neither exists nor is in the store.
    """
    asked = tuple(dict.fromkeys(word.strip() for words in said for word in words.split(",") if word.strip()))
    if said and not asked:
        raise RequestError(f"--retry: which failures? {', '.join(CLASSES)}")
    unknown = [word for word in asked if word not in CLASSES]
    if unknown:
        known = dict.fromkeys([*CLASSES, *sorted(failure_classes(store))])
        for word in unknown:
            if word not in known:
                near = difflib.get_close_matches(word, known, 1, 0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(known)}"
                raise RequestError(f"--retry: there is no class of failures {word!r}; {hint}")
    return asked
