"""The loss against its formula, written out."""

import math

import pytest
import torch
import torch.nn.functional as F

from clip2video_pipe.models.contrastive import contrastive_loss


def cross_entropy(scores):
    rows = [-(row[n] - math.log(sum(math.exp(s) for s in row))) for n, row in enumerate(scores)]
    return sum(rows) / len(rows)


def by_hand(videos, captions, scale):
    scores = [[scale * sum(a * b for a, b in zip(v, c, strict=True)) for c in captions] for v in videos]
    columns = [list(column) for column in zip(*scores, strict=True)]
    return (cross_entropy(scores) + cross_entropy(columns)) / 2


@pytest.mark.parametrize("aligned", [False, True])
def test_it_is_the_mean_of_both_directions_over_both_vectors(aligned):
    torch.manual_seed(0)
    parts = [F.normalize(torch.randn(5, 4), dim=1) for _ in range(4)]
    videos, captions, w, scale = parts[0], parts[1], 0.3, 7.0
    expected = by_hand(videos.tolist(), captions.tolist(), scale)
    if aligned:
        expected = w * expected + (1 - w) * by_hand(parts[2].tolist(), parts[3].tolist(), scale)
        videos, captions = torch.cat([videos, parts[2]], 1), torch.cat([captions, parts[3]], 1)
    found = contrastive_loss(videos, captions, torch.tensor(scale), w, width=4)
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_pairs_that_agree_cost_nothing_and_others_do():
    one = torch.eye(4)
    assert contrastive_loss(one, one, torch.tensor(100.0), 0.5, width=4) < 1e-6
    assert contrastive_loss(one, one.roll(1, 0), torch.tensor(100.0), 0.5, width=4) > 50
