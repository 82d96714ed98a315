"""What a video shows, and which of its frames a segment of it asks for: times in, indices out."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clip2video_pipe.stages.sampling import Indices, Sampling, Times


@dataclass(frozen=True, eq=False)
class Shown:
    """Frames that a video shows: their times [n] in seconds, in the order they are shown, and its rate.

    `first` is the time of the video's first frame, which need not be among these.
    """

    times: Times
    rate: float  # frames a second
    first: float

    @classmethod
    def whole(cls, times: Times, rate: float) -> "Shown":
        """All frames of a video."""
        return cls(times, rate, float(times[0]) if len(times) else 0.0)


@dataclass(frozen=True, eq=False)
class Chosen:
    """Frames chosen of a segment: where they come among those that are shown, and when in the segment."""

    indices: Indices  # [m]
    times: Times  # [m] seconds from the segment's first frame
    decoded: int  # frames in the segment


@dataclass(frozen=True)
class Segment:
    """Seconds from the video's first frame: start <= time < end."""

    start: float
    end: float

    def __str__(self) -> str:
        return f"from {self.start} s to {self.end} s"

    def holds(self, times: Times) -> npt.NDArray[np.bool_]:
        """Which of the times [n] are in it; stamps before the first frame belong to the beginning."""
        return ((times >= self.start) | (self.start == 0)) & (times < self.end)

    def choose(self, shown: Shown, sampling: Sampling) -> Chosen:
        """The frames of it that `sampling` looks at."""
        inside = np.flatnonzero(self.holds(shown.times - shown.first))
        times = shown.times[inside]
        times = times - times[:1]
        picked = sampling.choose(times, shown.rate)
        return Chosen(inside[picked].astype(np.int64), times[picked], len(inside))

    def count(self, times: list[float | None], first: float) -> int:
        """How many of these are in it, unknown ones included; `first` is the time of the video's first frame."""
        known = np.array([time - first for time in times if time is not None], np.float64)
        return times.count(None) + int(self.holds(known).sum())
