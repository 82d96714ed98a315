"""What a checkpoint that was trained here says of its origin. Reads a header, and no weights."""

import json
from pathlib import Path

TRAINING_LIST = "training_list"  # in the metadata of .safetensors: digest of the sorted ids of the videos trained on
LONGEST_HEADER = 100_000_000  # bytes, by the format's own rule


def training_list(path: Path) -> str | None:
    """Digest of the list that a checkpoint was trained on; None where it does not say, or cannot be read here."""
    if path.suffix != ".safetensors":
        return None
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= LONGEST_HEADER else {}
    except (OSError, ValueError, RecursionError):
        return None  # whoever loads the weights says what is wrong with them
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    said = metadata.get(TRAINING_LIST) if isinstance(metadata, dict) else None
    return said if isinstance(said, str) else None
