"""What a model has seen before it is tested: training captions for a query bank, and tests on training videos."""

from pathlib import Path

import pyarrow as pa

from clip2video_pipe.manifests import keys
from clip2video_pipe.models.provenance import training_list
from clip2video_pipe.pipeline.errors import RequestError
from clip2video_pipe.pipeline.settings import Config, ProtocolDataset
from clip2video_pipe.stages.datasets import DatasetError
from clip2video_pipe.stages.datasets.protocols import protocol


def training_captions(config: Config) -> list[str]:
    """The captions of `score.query_bank`, or of the dataset's train split. Raises RequestError without any."""
    path, dataset = config.score.query_bank, config.dataset
    if path is not None:
        try:
            captions = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
            raise RequestError(f"score.query_bank: {path!r}: {why}") from error
    elif isinstance(dataset, ProtocolDataset):
        try:
            found = protocol(dataset.kind).captions(Path(dataset.annotations), "train")
        except DatasetError as error:
            raise RequestError(f"score.post: qb-norm needs the training captions: {error}") from error
        captions = [caption.text for caption in found]
    else:
        raise RequestError(
            f"score.post: qb-norm needs training captions, and dataset.kind {dataset.kind!r} has none; "
            "give score.query_bank, a file with a caption a line"
        )
    if not any(caption.strip() for caption in captions):
        raise RequestError(f"score.query_bank: {path or dataset.kind!r}: has no captions")
    return captions


def training_warnings(config: Config, videos: pa.Table) -> tuple[str, ...]:
    """A line where videos of the dataset are among those that the checkpoint was trained on.

    The checkpoint says what that was where it was trained here; else `model.trained_on` does.
    """
    dataset, model = config.dataset, config.model
    if model.checkpoint is None or not isinstance(dataset, ProtocolDataset):
        return ()
    try:
        lists = protocol(dataset.kind).training_lists(Path(dataset.annotations))
    except DatasetError as error:
        raise RequestError(str(error)) from error
    said = training_list(Path(model.checkpoint))
    by_digest = {keys.digest(sorted(ids)): name for name, ids in lists.items()}
    name = by_digest.get(said or "", model.trained_on)  # of a list that these files do not have, the config may know
    if dataset.split == "train":
        return ()
    if (name, dataset.kind, dataset.split) == ("msrvtt-9k", "msrvtt-full", "test") and name not in lists:
        # By the protocols' definition; it cannot be counted without the list itself.
        return (f"{_BEGINNING} 1,990 of the 2,990 test videos of msrvtt-full are in msrvtt-9k, {_END}",)
    ids = videos["video_id"].to_pylist()
    seen = set(lists.get(name or "", ())).intersection(ids)
    if not seen:
        return ()
    return (f"{_BEGINNING} {len(seen):,} of its {len(ids):,} videos are in {name}, {_END}",)


_BEGINNING = "WARNING: this is no test of the checkpoint:"
_END = "the list that it was trained on"
