import json
from pathlib import Path

import numpy as np
import pytest

from clip2video_pipe.stages.sampling import Sampling, middles, pick, reference_grid

GOLDEN = Path(__file__).parents[1] / "golden"


def test_pick_is_the_originals():
    for case in json.loads((GOLDEN / "sampling.json").read_text()):
        picked = pick(case["frames_at_5fps"], case["framerate"], case["max_frames"])
        assert picked.tolist() == case["picked"], case


@pytest.mark.parametrize(
    ("rate", "frames", "files"),
    [  # what ffmpeg 5.1 wrote with -r 5
        (1, 4, [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5),
        (3, 8, [0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 6, 6, 7, 7]),
        (7, 12, [0, 1, 2, 3, 4, 5, 6, 7, 9, 10]),
        (25, 30, [0, 1, 4, 9, 14, 19, 24, 29]),
        (30, 30, [0, 1, 5, 11, 17, 23, 29]),
        (50, 140, [0, 1, 8, 18, 28, 38, 48, 58, 68, 78, 88, 98, 108, 118, 128, 138]),
        (100, 120, [0, 1, 17, 37, 57, 77, 97, 117]),
    ],
)
def test_grid_is_ffmpegs(rate, frames, files):
    assert reference_grid(np.arange(frames) / rate, rate, 5.0).tolist() == files


@pytest.mark.parametrize(
    ("milliseconds", "files"),
    [  # again ffmpeg's own
        ([0, 40, 2000, 2040], [0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3]),
        ([0, 40, 900, 940, 1700, 2500, 3300], [0, 1, 1, 1, 2, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6]),
    ],
)
def test_grid_fills_gaps_and_repeats_the_end(milliseconds, files):
    assert reference_grid(np.array(milliseconds) / 1000, 25.0, 5.0).tolist() == files


@pytest.mark.parametrize("rate", [5.0, 23.976, 25.0, 29.97, 60.0])
def test_grid_has_about_five_files_a_second(rate):
    for frames in range(1, 400, 7):
        grid = reference_grid(np.arange(frames) / rate, rate, 5.0)
        assert abs(len(grid) - frames / rate * 5) <= 3
        assert (np.diff(grid) >= 0).all() and grid[0] == 0 and grid[-1] < frames


@pytest.mark.parametrize(
    ("times", "rate", "count", "chosen"),
    [
        (np.arange(24) / 24, 24.0, 12, np.arange(12) * 2 + 1),  # each span's middle falls on a frame's beginning
        (np.arange(100) / 25, 25.0, 4, [12, 37, 62, 87]),
        (np.arange(5) / 25, 25.0, 12, [0, 1, 2, 3, 4]),
        (np.array([0, 0.1, 0.2, 4.0]), 25.0, 3, [2, 2, 2]),  # a frame that is shown for long
        (np.array([]), 25.0, 3, []),
    ],
)
def test_uniform_takes_the_frames_at_the_middles(times, rate, count, chosen):
    assert middles(times, rate, count).tolist() == list(chosen)
    assert Sampling("uniform", max_frames=count).choose(times, rate).tolist() == list(chosen)


def test_reference_picks_from_the_grid():
    times = np.arange(250) / 25
    chosen = Sampling("reference", keep_every=2, max_frames=4).choose(times, 25.0)
    assert chosen.tolist() == reference_grid(times, 25.0, 5.0)[pick(52, 2, 4)].tolist()


@pytest.mark.parametrize("policy", ["reference", "uniform"])
def test_choices_are_ascending_and_at_most_max_frames(policy):
    for frames in range(60):
        chosen = Sampling(policy, max_frames=5).choose(np.arange(frames) / 25, 25.0)
        assert len(chosen) <= 5 and (np.diff(chosen) >= 0).all() and chosen.dtype == np.int64
        assert (len(chosen) == 0) == (frames == 0)


def test_one_file_of_which_every_second_is_kept_leaves_none():
    assert Sampling(keep_every=2).choose(np.array([0.0]), 25.0).tolist() == []


def test_key_holds_only_what_the_policy_looks_at():
    assert Sampling("uniform", max_frames=8).key_params() == {"policy": "uniform", "max_frames": 8}
    assert Sampling().key_params() == {"policy": "reference", "grid_fps": 5.0, "keep_every": 1, "max_frames": 12}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"policy": "random"}, "random"),
        ({"grid_fps": 0}, "grid_fps"),
        ({"keep_every": 0}, "keep_every"),
        ({"max_frames": 0}, "max_frames"),
    ],
)
def test_wrong_settings_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        Sampling(**arguments)
