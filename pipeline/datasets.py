"""The dataset that a config names, whatever its kind, and its listing."""

from pathlib import Path

from clip2video_pipe.manifests.addresses import location
from clip2video_pipe.manifests.fingerprints import Fingerprints
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.listings import RememberedListing
from clip2video_pipe.pipeline.settings import Config, FolderDataset, ProtocolDataset, TableDataset
from clip2video_pipe.stages.datasets import Dataset, DatasetError
from clip2video_pipe.stages.datasets.durations import Durations
from clip2video_pipe.stages.datasets.folder import read_folder
from clip2video_pipe.stages.datasets.protocols import protocol
from clip2video_pipe.stages.datasets.table import read_table
from clip2video_pipe.stages.datasets.windows import cut
from clip2video_pipe.stages.listing import Listing, list_dataset


def read_listing(config: Config, store: Store, fingerprints: Fingerprints, *, remember: bool) -> Listing:
    """Every item that a config's dataset has; that of a long table as the store remembers it. Raises RequestError.

    With `remember`, how long videos are and the listing of a long table are written down.
    """
    dataset = config.dataset
    durations = None if isinstance(dataset, ProtocolDataset) or dataset.segments is None else Durations(store)
    memory = None
    if isinstance(dataset, TableDataset) and len(dataset.root) == 1:
        memory = RememberedListing(dataset, store, fingerprints, durations)
    listing = memory.load() if memory else None
    if listing is None:
        listing = list_dataset(read_dataset(config, durations), fingerprints, dataset.digest)
        if memory and remember:
            memory.save(listing)
    if durations and remember:
        durations.save()
    return listing


def read_dataset(config: Config, durations: Durations | None) -> Dataset:
    """Videos and captions; long videos cut into windows where `durations` are given. Raises RequestError."""
    dataset = config.dataset
    try:
        if isinstance(dataset, ProtocolDataset):
            roots = [location(path) for path in dataset.videos]
            return protocol(dataset.kind).read(Path(dataset.annotations), roots, dataset.split)
        if isinstance(dataset, FolderDataset):
            found = read_folder(dataset.path)
        else:
            found = read_table(dataset.path, [location(path) for path in dataset.root])
        said = dataset.segments
        if said is None or durations is None:
            return found
        return cut(found, said.length, said.stride or said.length, said.shortest, durations.of)
    except DatasetError as error:
        raise RequestError(str(error)) from error
