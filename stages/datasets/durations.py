"""How long videos are, remembered from run to run."""

from collections.abc import Sequence

from clip2video_pipe.manifests.addresses import Location
from clip2video_pipe.manifests.fingerprints import FileMemory
from clip2video_pipe.manifests.store import Store

NAME = "durations.parquet"


class Durations:
    """The store's memory of durations, in seconds."""

    def __init__(self, store: Store) -> None:
        self._memory = FileMemory(store, NAME)

    def of(self, paths: Sequence[Location]) -> list[float | None]:
        """Duration of each file; None where it cannot be told, so that decoding has to say why."""
        found = self._memory.of(paths, "duration", _read)
        return [float(said) if isinstance(said, str) and said else None for said in found]

    def save(self) -> None:
        """Write what was learnt."""
        self._memory.save()


def _read(path: Location) -> str:
    from clip2video_pipe.stages.decoding.durations import duration  # a run that knows all opens no video

    said = duration(path)
    return "" if said is None else repr(said)
