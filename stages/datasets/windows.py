"""Long videos as windows: each an item with its start and its end."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from clip2video_pipe.manifests.addresses import Location
from clip2video_pipe.stages.datasets import Dataset, DatasetError, Video

Window = tuple[float, float | None]  # seconds; None: to the end, however long the file turns out to be


def windows(duration: float, length: float, stride: float, shortest: float) -> list[Window]:
    """Windows of `length` seconds, one each `stride`, and what is left at the end if it is at least `shortest`.

    A whole window ends where it should, and the last one at the file's end, so that a duration that is a little off
    moves no window. A last one has something of its own: none lies inside the one before. Of a video that is shorter
    than one window all of it is a window, however short.
    """
    found: list[Window] = []
    start = 0.0
    while start + length <= duration:
        found.append((start, float(start + length)))
        start = float(len(found) * stride)
    if not found:
        return [(0.0, None)]
    seen = found[-1][1] or 0.0
    if duration - start >= shortest and duration > seen:
        found.append((start, None))
    return found


def cut(
    dataset: Dataset,
    length: float,
    stride: float,
    shortest: float,
    duration_of: Callable[[Sequence[Location]], list[float | None]],
) -> Dataset:
    """Each video's windows in its place, as `<video_id>#t=<start>,<end>`.

    Videos that have a segment already, and those whose duration nobody can tell, stay as they are; a note counts the
    latter. Raises DatasetError where there are captions: they belong to whole videos.
    """
    if dataset.captions:
        raise DatasetError(
            "dataset.segments: the dataset has captions, and those belong to whole videos; "
            "leave it out, or give rows with start and end"
        )
    paths = [video.path for video in dataset.videos]
    durations = duration_of(paths)
    found: list[Video] = []
    for video, duration in zip(dataset.videos, durations, strict=True):
        if duration is None or video.start is not None or video.end is not None:
            found.append(video)
            continue
        for start, end in windows(duration, length, stride, shortest):
            name = f"{video.video_id}#t={start},{'' if end is None else end}"
            found.append(Video(name, video.path, start, end))
    unknown = durations.count(None)
    notes = (f"{unknown} videos whose length cannot be told, now at least, are not cut",) if unknown else ()
    known = dict(zip(paths, durations, strict=True))
    return replace(dataset, videos=tuple(found), notes=(*dataset.notes, *notes), durations=known)
