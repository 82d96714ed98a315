"""The dataset that a config names, whatever its kind."""

from pathlib import Path

from clip2video_pipe.manifests.addresses import location
from clip2video_pipe.manifests.store import Store
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.settings import Config, FolderDataset, ProtocolDataset
from clip2video_pipe.stages.datasets import Dataset, DatasetError
from clip2video_pipe.stages.datasets.durations import Durations
from clip2video_pipe.stages.datasets.folder import read_folder
from clip2video_pipe.stages.datasets.protocols import protocol
from clip2video_pipe.stages.datasets.table import read_table
from clip2video_pipe.stages.datasets.windows import cut


def read_dataset(config: Config, store: Store, *, remember: bool) -> Dataset:
    """Videos and captions; long videos cut into windows where the config says so. Raises RequestError.

    How long videos are is read from the store or the files, and with `remember` written down.
    """
    dataset = config.dataset
    try:
        if isinstance(dataset, ProtocolDataset):
            roots = [location(path) for path in dataset.videos]
            return protocol(dataset.kind).read(Path(dataset.annotations), roots, dataset.split)
        if isinstance(dataset, FolderDataset):
            found = read_folder(dataset.path)
        else:
            found = read_table(dataset.path, [location(path) for path in dataset.root])
        if dataset.segments is None:
            return found
        said, durations = dataset.segments, Durations(store)
        found = cut(found, said.length, said.stride or said.length, said.shortest, durations.of)
    except DatasetError as error:
        raise RequestError(str(error)) from error
    if remember:
        durations.save()
    return found
