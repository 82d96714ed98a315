"""Keys: what makes a result the same.

Every key is the first 32 hexadecimal digits (128 bits) of a sha256 over canonical JSON. No key depends on a rank, a
file name, a time or a position in a list; `docs/design.md` says what each one holds.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from json.encoder import encode_basestring
from typing import Any

KEY_LENGTH = 32

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Key of a JSON value: equal values give equal keys whatever the order of their dictionaries.

    Raises TypeError or ValueError for what canonical JSON cannot say (objects, not-a-number).
    """
    return _digest(_CANONICAL.encode(value))


def _digest(canonical: str) -> str:
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:KEY_LENGTH]


def digest_of(*names: str) -> Callable[..., str]:
    """`digest` of dictionaries with these keys, given their values, each text or None: for millions of them."""
    assert list(names) == sorted(names), "as in canonical JSON"
    form = "{" + ",".join(f'"{name}":%s' for name in names) + "}"

    def of(*values: str | None) -> str:
        return _digest(form % tuple(["null" if value is None else encode_basestring(value) for value in values]))

    return of


def video_key(content: str, start: float | None, end: float | None) -> str:
    """Item key of a video, or of its segment from `start` to `end` seconds: its content, never its name."""
    return digest({"video": content, "start": _seconds(start), "end": _seconds(end)})


def caption_key(text: str) -> str:
    """Item key of a caption: its cleaned text."""
    return _caption_key(text)


def stage_key(
    stage: str, version: int, params: Mapping[str, Any], inputs: Mapping[str, str], weights: str | None
) -> str:
    """Key of a stage: its name and version, what changes its numbers, its weights, and the stages it reads."""
    return digest(
        {
            "stage": stage,
            "version": version,
            "params": dict(params),
            "inputs": dict(inputs),
            "weights": weights,
        }
    )


def shard_name(stage_key: str, items: Sequence[str]) -> str:
    """Name of the shard that holds `items` in this order: it says what is in it, not who wrote it."""
    return digest({"shard": stage_key, "items": list(items)})


def manifest_hash(stage_key: str, items: Sequence[str]) -> str:
    """Hash of a stage's answer to `items`, which are keys, in this order; known before anything runs."""
    # Of a million items, canonical JSON would take five times as long.
    listed = hashlib.sha256("\n".join(items).encode("utf-8", "surrogatepass")).hexdigest()
    return digest({"manifest": stage_key, "items": listed, "count": len(items)})


_caption_key = digest_of("caption")


def _seconds(value: float | None) -> float | None:
    return None if value is None else float(value)
