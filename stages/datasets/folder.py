"""Folders of video files, without captions."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from clip2video_pipe.manifests.addresses import Location, Url, is_remote, shown
from clip2video_pipe.stages.datasets import Dataset, DatasetError, Gap, Video
from clip2video_pipe.stages.datasets.files import EXTENSIONS, expand, is_video, listed, text, walk


def read_folder(patterns: Sequence[str]) -> Dataset:
    """Every file below the folders, local or of an object store, or found by the globs, that is named like a video.

    Its id is its path from the folder, of a file that a glob found its name; where two would have the same id, the
    later one has its whole path, and is a gap. Hidden files and folders are passed over, other files are counted in the
    notes. Raises DatasetError where no file is left.
    """
    videos: dict[str, Video] = {}
    gaps: list[Gap] = []
    others = 0
    for pattern in patterns:
        for name, path in _files(pattern):
            if not is_video(path):
                others += 1
                continue
            video_id = name
            if video_id in videos and videos[video_id].path != path:
                taken, video_id = video_id, text(path)
                gaps.append(Gap("id-twice", video_id, f"would be {taken!r}, as {text(videos[taken].path)} is"))
            videos.setdefault(video_id, Video(video_id, path))
    named = ", ".join(map(shown, patterns))
    if not videos:
        known = " ".join(sorted(EXTENSIONS))
        raise DatasetError(f"{named}: no video among its {others} files; a video's name ends in one of {known}")
    notes = (f"{named}: {others} files are not named like videos and were passed over",) if others else ()
    return Dataset(tuple(videos.values()), (), notes, tuple(gaps))


def _files(pattern: str) -> Iterator[tuple[str, Location]]:
    """Files with their ids, as long as no other has the same."""
    if is_remote(pattern):
        yield from listed("dataset.path", Url(pattern))
        return
    for root in expand(pattern):
        if root.is_dir():
            yield from ((text(path.relative_to(root)), path) for path in walk(root))
        else:
            yield text(Path(root.name)), root
