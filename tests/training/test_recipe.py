"""What learns, how fast, and when."""

import math

import pytest
import torch

from clip2video_pipe.pipeline.training.recipe import PARTS, bound_scale, freeze, make_optimizer, schedule

FROZEN_BY_DEFAULT = {
    "clip.token_embedding.weight",
    "clip.positional_embedding",
    "clip.visual.class_embedding",
    "clip.visual.positional_embedding",
    "clip.visual.conv1.weight",
    "clip.visual.ln_pre.weight",
    "clip.visual.ln_pre.bias",
}


def stepped(small, parts):
    """Names of the parameters that a step with a large rate changes."""
    from clip2video_pipe.pipeline.training.step import Towers

    model = small.new_model().train()
    freeze(model, parts)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(model, 0.1, 0.1, 0.2)
    small.gradient(Towers(model, small.FRAMES), [small.pairs()], [7])
    optimizer.step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_freezing_freezes(small):
    every = set(small.new_model().state_dict())
    assert stepped(small, []) == every
    assert stepped(small, ["embeddings"]) == every - FROZEN_BY_DEFAULT
    changed = stepped(small, ["image", "text", "scale"])
    assert changed == {name for name in every if not name.startswith("clip.")}


def test_parts_are_parts_of_the_model(small):
    names = list(small.new_model().state_dict())
    for prefixes in PARTS.values():
        assert all(any(name.startswith(prefix) for name in names) for prefix in prefixes)


def test_clip_learns_at_a_rate_of_its_own_and_norms_do_not_decay(small):
    model = small.new_model()
    groups = make_optimizer(model, 1e-4, 1e-7, 0.2).param_groups
    said = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    names = dict(model.named_parameters())
    assert len(said) == len(names)
    assert said[id(names["clip.visual.proj"])] == (1e-7, 0.2)
    assert said[id(names["clip.ln_final.weight"])] == (1e-7, 0.0)
    assert said[id(names["emb_center"])] == (1e-4, 0.2)
    assert said[id(names["transformerClip.resblocks.0.ln_1.bias"])] == (1e-4, 0.0)


def test_the_rate_rises_in_a_line_and_falls_as_a_cosine():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    rule = schedule(optimizer, 100, 0.1)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rule.step()
    assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert rates[55] == pytest.approx(1.0, abs=0.05)  # half way down
    assert rates[99] == pytest.approx(1 + math.cos(math.pi * 89 / 90), abs=1e-6)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_the_scale_is_bounded(small):
    model = small.new_model()
    with torch.no_grad():
        model.clip.logit_scale.fill_(9.0)
    bound_scale(model)
    assert model.scale == pytest.approx(100)
