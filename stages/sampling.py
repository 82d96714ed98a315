"""Which of a clip's frames are looked at. Times in, indices out; nothing here has seen a pixel."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

# ffmpeg moves each time by a hair (in grid steps) so that nothing falls on a boundary. At 50 fps it decides: there
# every tenth frame is exactly 1.1 steps early.
HAIR = 2.0**-17

# Seconds; far below a frame, far above rounding. A frame that begins exactly at a span's middle is shown there.
TOLERANCE = 1e-6


def reference_grid(times: Times, rate: float, grid_fps: float) -> Indices:
    """The frame in each file that the original's `ffmpeg -r grid_fps` writes (reference 1).

    `times` [n] are the frames' seconds from the first, in the order they are shown; `rate` is the input's, in frames
    a second. Gives int64 [N], indices into `times`, ascending, with repeats.

    Two details beside reference 1, found by running ffmpeg 5.1 on clips of 0.5 to 120 fps: the `HAIR`, and frames
    that span more than half a step (`rate` below `2 * grid_fps`) span a whole number of them.
    """
    shown: list[int] = []
    repeats = deque([0, 0, 0], maxlen=3)
    span = float(round(grid_fps / rate)) or grid_fps / rate
    for frame, time in enumerate(times.tolist()):
        late = grid_fps * time - len(shown) + (HAIR if time else 0.0)
        delta = late + span
        if late < 0 < delta:
            late = 0.0
        files, repeated = 1, 0
        if delta < -1.1:
            files = 0
        elif delta > 1.1:
            files = round(delta)
            if late > 1.1:
                repeated = round(late - 0.6)
        repeats.append(repeated)
        shown += [max(frame - 1, 0)] * repeated + [frame] * (files - repeated)
    if shown:
        shown += [len(times) - 1] * sorted(repeats)[1]
    return np.array(shown, np.int64)


def pick(n_files: int, keep_every: int, max_frames: int) -> Indices:
    """Which of the original's `n_files` files it looks at (reference 2): int64 [M], ascending, M <= max_frames."""
    kept = n_files // keep_every
    # numpy's own truncation, because exact arithmetic differs from it for some n_files (119 by 2).
    chosen = np.linspace(0, n_files - 1, kept, dtype=int)
    if kept > max_frames:
        chosen = chosen[np.linspace(0, kept - 1, max_frames, dtype=int)]
    return chosen.astype(np.int64)


def middles(times: Times, rate: float, count: int) -> Indices:
    """The frames shown at the middles of `count` equal spans of the clip; all of them, once, where they are fewer.

    `times` [n] in seconds, in the order shown; the last frame is taken to last `1 / rate` seconds. Gives int64 [M].
    """
    if len(times) <= count:
        return np.arange(len(times), dtype=np.int64)
    starts = np.maximum.accumulate(times)  # a time that goes backwards is a fault of the file
    seconds = starts[-1] - starts[0] + 1 / rate
    wanted = starts[0] + (np.arange(count) + 0.5) * (seconds / count)
    shown: Indices = np.searchsorted(starts, wanted + TOLERANCE, side="right").astype(np.int64) - 1
    return shown


def draw(kept: int, count: int, random: np.random.Generator) -> Indices:
    """Which `count` of the `kept` frames of `jitter` to look at: int64 [M], M <= count, ascending.

    The clip is cut into `count` equal parts, and each gives one that is drawn; all are taken where they are no more.
    """
    if kept <= count:
        return np.arange(kept, dtype=np.int64)
    bounds = np.linspace(0, kept, count + 1)
    low = np.ceil(bounds[:-1]).astype(np.int64)
    high = np.maximum(low + 1, np.ceil(bounds[1:]).astype(np.int64))
    return random.integers(low, high)


@dataclass(frozen=True)
class Policy:
    """A way to choose frames, and those of `Sampling`'s fields that it looks at."""

    choose: "Callable[[Sampling, Times, float], Indices]"
    params: tuple[str, ...]


def _reference(sampling: "Sampling", times: Times, rate: float) -> Indices:
    grid = reference_grid(times, rate, sampling.grid_fps)
    return grid[pick(len(grid), sampling.keep_every, sampling.max_frames)]


def _uniform(sampling: "Sampling", times: Times, rate: float) -> Indices:
    return middles(times, rate, sampling.max_frames)


def _jitter(sampling: "Sampling", times: Times, rate: float) -> Indices:
    return middles(times, rate, sampling.most)


POLICIES = {
    "reference": Policy(_reference, ("grid_fps", "keep_every", "max_frames")),
    "uniform": Policy(_uniform, ("max_frames",)),
    "jitter": Policy(_jitter, ("max_frames", "candidates")),
}


@dataclass(frozen=True)
class Sampling:
    """How a clip's frames are chosen: `reference` as the original does, `uniform` evenly over the clip's time.

    `jitter` is for training: `candidates` times `max_frames` are chosen as `uniform` does, and `draw` takes some of
    them each time that the clip is looked at.

    Raises ValueError for a policy that is not in POLICIES, or a number out of range.
    """

    policy: str = "reference"
    grid_fps: float = 5.0  # files a second
    keep_every: int = 1  # the original's `feature_framerate`: of so many files, one is kept
    max_frames: int = 12
    candidates: int = 3  # of jitter: so many are kept for each frame that is looked at

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"sampling policy {self.policy!r} is not one of {', '.join(POLICIES)}")
        if not 0 < self.grid_fps < np.inf:
            raise ValueError(f"grid_fps is {self.grid_fps}; it has to be above 0")
        if self.keep_every < 1 or self.max_frames < 1:
            raise ValueError(
                f"keep_every is {self.keep_every} and max_frames {self.max_frames}; both have to be at least 1"
            )

    @property
    def most(self) -> int:
        """Frames that are kept of a clip at most."""
        return self.max_frames * (self.candidates if self.policy == "jitter" else 1)

    def choose(self, times: Times, rate: float) -> Indices:
        """Which frames of a clip to look at: int64 [M], M <= most, ascending; a repeated one counts again.

        `times` [n] are the frames' seconds from the clip's first, in the order they are shown; `rate` the clip's
        frames a second. M is 0 where there are no frames, or the original would keep none.
        """
        if times.ndim != 1 or not rate > 0:
            raise ValueError(f"times have shape {times.shape} and the rate is {rate}; need [n] and above 0")
        if not len(times):
            return np.empty(0, np.int64)
        return POLICIES[self.policy].choose(self, times, rate)

    def key_params(self) -> dict[str, Any]:
        """What the chosen frames depend on, for a stage's key."""
        names = ("policy", *POLICIES[self.policy].params)
        return {name: getattr(self, name) for name in names}
