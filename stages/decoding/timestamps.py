"""When frames are shown, from the time stamps that files give them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Stamp = int | None


def display_times(pts: Sequence[Stamp], dts: Sequence[Stamp], tick: float, rate: float) -> npt.NDArray[np.float64]:
    """Seconds of frames in the order they are shown: float64 [n], from whatever zero the file has.

    `pts` and `dts` are the frames' presentation and decoding stamps, in ticks of `tick` seconds. Presentation
    stamps are used unless they are missing or step back more often than decoding stamps do, as in AVI, where they
    are guesses. A frame without a stamp comes `1 / rate` seconds after the one before.
    """
    stamps = dts if _faults(dts) < _faults(pts) else pts
    known = [index for index, stamp in enumerate(stamps) if stamp is not None]
    first = known[0] if known else 0
    times: list[float] = []
    for index, stamp in enumerate(stamps):
        if stamp is not None:
            times.append(stamp * tick)
        elif index < first:
            times.append((stamps[first] or 0) * tick - (first - index) / rate)
        else:
            times.append(times[-1] + 1 / rate if times else 0.0)
    return np.array(times, np.float64)


def _faults(stamps: Sequence[Stamp]) -> int:
    """How many are missing, or not after the last one before."""
    faults, last = 0, None
    for stamp in stamps:
        if stamp is None or (last is not None and stamp <= last):
            faults += 1
        if stamp is not None:
            last = stamp
    return faults
