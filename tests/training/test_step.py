"""A batch has one gradient: whole, in parts, or spread over workers."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clip2video_pipe.models.presets import Variant

VARIANTS = [
    Variant(),
    Variant(temporal="tdb", difference="subtract", alignment="none"),
    Variant(temporal="transformer", alignment="tab"),
    Variant(temporal="mean", alignment="none"),
]


def largest_difference(found, expected):
    assert found.keys() == expected.keys()
    return max(float((found[name] - expected[name]).abs().max()) for name in expected)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v.temporal}-{v.alignment}")
@pytest.mark.parametrize("sizes", [[4, 3], [1] * 7])
def test_cached_gradients_are_those_of_the_plain_step(small, variant, sizes):
    from clip2video_pipe.pipeline.training.step import Towers

    whole = small.gradient(Towers(small.new_model(variant).train(), small.FRAMES), [small.pairs()], [7])
    parts = small.gradient(Towers(small.new_model(variant).train(), small.FRAMES), small.cut(small.pairs(), sizes), [7])
    assert parts[0] == pytest.approx(whole[0], abs=1e-5)
    assert largest_difference(parts[1], whole[1]) < 1e-5
    assert whole[1]["clip.logit_scale"].abs() > 1e-3, "the scale learns"


def of_two_workers(folder, negatives, parts):
    """What each of two Gloo workers has: loss and gradients."""
    command = [sys.executable, str(Path(__file__).parent / "small.py")]
    both = [
        subprocess.Popen([*command, str(rank), "2", str(folder), negatives, str(parts)], stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    for worker in both:
        _, said = worker.communicate(timeout=120)
        assert worker.returncode == 0, said.decode()
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("parts", [1, 2])
def test_global_negatives_give_the_gradient_of_the_whole_batch(small, tmp_path, parts):
    from clip2video_pipe.pipeline.training.step import Towers

    loss, whole = small.gradient(Towers(small.new_model().train(), small.FRAMES), [small.pairs()], [7])
    for found, gradients in of_two_workers(tmp_path, "global", parts):
        assert found == pytest.approx(loss, abs=1e-5)
        assert largest_difference(gradients, whole) < 1e-5


def test_local_negatives_give_the_mean_of_the_workers(small, tmp_path):
    from clip2video_pipe.pipeline.training.step import Towers

    alone = [
        small.gradient(Towers(small.new_model().train(), small.FRAMES), [part], [len(part.counts)])
        for part in small.cut(small.pairs(), [4, 3])
    ]
    loss = (4 * alone[0][0] + 3 * alone[1][0]) / 7
    mean = {name: (4 * alone[0][1][name] + 3 * alone[1][1][name]) / 7 for name in alone[0][1]}
    for found, gradients in of_two_workers(tmp_path, "local", 1):
        assert found == pytest.approx(loss, abs=1e-5)
        assert largest_difference(gradients, mean) < 1e-5


def test_computing_layers_again_changes_nothing(small):
    from clip2video_pipe.pipeline.training.step import Towers

    model = small.new_model()
    model.recompute(True)
    again = small.gradient(Towers(model.train(), small.FRAMES), [small.pairs()], [7])
    plain = small.gradient(Towers(small.new_model().train(), small.FRAMES), [small.pairs()], [7])
    assert again[0] == plain[0] and largest_difference(again[1], plain[1]) < 1e-7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_gives_about_the_same_gradient_in_parts_too(small, dtype):
    from clip2video_pipe.pipeline.training.step import Towers

    def gradient(parts, mixed):
        with torch.autocast("cpu", dtype, enabled=mixed):
            return small.gradient(Towers(small.new_model().train(), small.FRAMES), parts, [7])

    exact, whole = (gradient([small.pairs()], mixed) for mixed in (False, True))
    parts = gradient(small.cut(small.pairs(), [4, 3]), True)
    for found in (whole, parts):
        assert found[0] == pytest.approx(exact[0], rel=0.02) and found[0] != exact[0]
        apart = sum(float((found[1][name] - exact[1][name]).square().sum()) for name in exact[1])
        assert apart < 0.05**2 * sum(float(value.square().sum()) for value in exact[1].values())
        assert all(value.dtype == torch.float32 for value in found[1].values()), "master weights"
