"""Vectors are the original's, whatever the batch, and padding is never computed.

Tolerances: 1e-4 on logits (a scale of 100 over float32 rounding), 1e-5 on entries of unit vectors.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from clip2video_pipe.models.clip import PIXEL_DEVIATION, PIXEL_MEAN, normalise_pictures
from clip2video_pipe.models.clip2video import Clip2Video
from clip2video_pipe.models.presets import PRESETS, Variant
from clip2video_pipe.models.weights import load_model

Golden = dict[str, np.ndarray]
Maker = Callable[[Variant], Clip2Video]
COUNTS = (12, 12, 7, 2, 1)

VARIANTS = {  # the original's, with the weight of the global score
    "meanP": (Variant(temporal="mean", alignment="none"), 1.0),
    "seqTransf": (Variant(temporal="transformer", alignment="none"), 1.0),
    "tdb_subtract": (Variant(difference="subtract", alignment="none"), 1.0),
    "tdb_mlp": (Variant(difference="mlp", alignment="none"), 1.0),
    "tdb_selfA": (Variant(difference="attention", alignment="none"), 1.0),
    "tab": (Variant(alignment="tab"), 0.5),
    "tab_tdb_k5": (Variant(), 0.5),
    "tab_tdb_k7_w03": (Variant(centers=7), 0.3),
}


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def tiny() -> Clip2Video:
    return load_model(PRESETS["tiny"], Variant(), clip=None, checkpoint=None, seed=0)


def score(t: Tensor, ta: Tensor | None, v: Tensor, va: Tensor | None, weight: float, scale: float) -> Tensor:
    """Logits [captions, videos] (reference 15)."""
    if ta is None or va is None:
        return scale * (t @ v.T)
    return scale * (weight * t @ v.T + (1 - weight) * ta @ va.T)


def captions(golden: Golden) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(golden["input_ids"]), torch.from_numpy(golden["input_mask"]).bool()


def pictures(counts: tuple[int, ...], side: int = 64) -> Tensor:
    return torch.randint(
        0, 256, (sum(counts), side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def close(a: Tensor | None, b: Tensor | None) -> None:
    assert a is not None and b is not None
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_the_originals_and_do_not_depend_on_the_batch(name: str, golden: Golden, small_model: Maker) -> None:
    variant, weight = VARIANTS[name]
    model = small_model(variant)
    frames, mask = torch.from_numpy(golden["visual"]), torch.from_numpy(golden["video_mask"]).bool()
    text = model.embed_captions(*captions(golden))
    alone = [model.video_vectors(frames[b : b + 1], mask[b : b + 1]) for b in range(len(frames))]
    together = model.video_vectors(frames, mask)
    for i, (v, va) in enumerate(alone):
        logits = score(*text, v, va, weight, model.scale)
        np.testing.assert_allclose(logits[:, 0], golden[f"{name}.sim"][:, i], rtol=0, atol=1e-4)
        close(together[0][i], v[0])
        if va is not None and together[1] is not None:
            close(together[1][i], va[0])


def test_frame_vectors_and_the_zero_pictures_are_the_originals(
    golden: Golden, golden_pixels: Tensor, small_model: Maker
) -> None:
    model, mask = small_model(Variant()), torch.from_numpy(golden["video_mask"]).bool()
    real = model.clip.visual(golden_pixels[mask])
    np.testing.assert_allclose(real, golden["visual"][mask], rtol=0, atol=1e-5)
    padding = golden["visual"][~mask]
    zero = model.clip.visual.zero_picture().expand(padding.shape)
    np.testing.assert_allclose(zero, padding, rtol=0, atol=1e-5)


def test_hidden_rows_and_aligned_vectors_are_the_originals(golden: Golden, small_model: Maker) -> None:
    model = small_model(Variant())
    ids, mask = captions(golden)
    rows = model.clip.hidden_rows(ids)
    np.testing.assert_allclose(rows, golden["text_hidden"], rtol=0, atol=1e-5)
    text_global, text_aligned = model.embed_captions(ids, mask)
    cls = torch.from_numpy(golden["text_cls"])
    close(text_global, cls / cls.norm(dim=1, keepdim=True))
    close(text_aligned, torch.from_numpy(golden["text_aligned_k5"]))
    frames, real = torch.from_numpy(golden["visual"]), torch.from_numpy(golden["video_mask"]).bool()
    close(model.video_vectors(frames, real)[1], torch.from_numpy(golden["video_aligned_k5"]))


def test_pictures_and_frame_vectors_take_the_same_road(tiny: Clip2Video) -> None:
    frames = pictures(COUNTS)
    by_hand = frames.float() / 255
    by_hand = ((by_hand - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_DEVIATION)).permute(0, 3, 1, 2)
    close(normalise_pictures(frames), by_hand)
    padded = torch.zeros(5, 12, 3, 64, 64)
    mask = torch.arange(12) < torch.tensor(COUNTS)[:, None]
    padded[mask] = by_hand
    vectors = tiny.clip.visual(padded.flatten(0, 1)).view(5, 12, -1)  # the original's way: padding through CLIP
    theirs = tiny.video_vectors(vectors, mask)
    for ours, originals in zip(tiny.embed_videos(frames, COUNTS, 12), theirs, strict=True):
        close(ours, originals)


def test_a_videos_vectors_do_not_depend_on_its_neighbours(tiny: Clip2Video) -> None:
    frames = pictures(COUNTS)
    together = tiny.embed_videos(frames, COUNTS, 12)
    for b, part in enumerate(frames.split(COUNTS)):  # type: ignore[no-untyped-call]
        alone = tiny.embed_videos(part, [len(part)], 12)
        for one, everyone in zip(alone, together, strict=True):
            assert one is not None and everyone is not None
            close(one[0], everyone[b])
            assert one.dtype == torch.float32 and one.norm().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("max_frames", [1, 2, 3, 7, 77])
def test_any_number_of_frames_works(max_frames: int, tiny: Clip2Video) -> None:
    for vectors in tiny.embed_videos(pictures((1, max_frames)), [1, max_frames], max_frames):
        assert vectors is not None and vectors.isfinite().all()


def test_captions_cut_to_the_longest_are_as_the_uncut(golden: Golden, small_model: Maker) -> None:
    model, (ids, mask) = small_model(Variant()), captions(golden)
    together = model.embed_captions(ids, mask)  # the longest fills all 32 places
    for i in range(len(ids)):
        alone = model.embed_captions(ids[i : i + 1], mask[i : i + 1])
        for one, everyone in zip(alone, together, strict=True):
            assert one is not None and everyone is not None
            close(one[0], everyone[i])


def test_the_zero_picture_is_computed_once_for_each_set_of_weights() -> None:
    model = load_model(PRESETS["tiny"], Variant(), clip=None, checkpoint=None, seed=0)
    seen: list[int] = []
    model.clip.visual.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    model.embed_videos(pictures((3, 2)), [3, 2], 4)
    model.embed_videos(pictures((3, 2)), [3, 2], 4)
    model.embed_videos(pictures((4,)), [4], 4)
    assert seen == [5, 1, 5, 4]  # never a padding frame, and the zero picture only where something is padded
    before = model.clip.visual.zero_picture()
    other = load_model(PRESETS["tiny"], Variant(), clip=None, checkpoint=None, seed=1).state_dict()
    model.load_state_dict(other)
    assert not torch.equal(model.clip.visual.zero_picture(), before)
    assert model.to(torch.bfloat16).clip.visual.zero_picture().dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("counts", "max_frames", "said"),
    [
        ([2, 0], 4, "a video has 0 frames"),
        ([2, 5], 4, "a video has 5 frames"),
        ([2, 1], 4, "add up to 3, but there are 2"),
        ([], 4, "add up to 0"),
        ([2], 78, "max_frames is 78"),
    ],
)
def test_wrong_counts_are_refused(counts: list[int], max_frames: int, said: str, tiny: Clip2Video) -> None:
    with pytest.raises(ValueError, match=said):
        tiny.embed_videos(pictures((2,)), counts, max_frames)


def test_wrong_pictures_and_captions_are_refused(tiny: Clip2Video) -> None:
    with pytest.raises(ValueError, match=r"not uint8 \[N, 64, 64, 3\]"):
        tiny.embed_videos(pictures((2,)).float(), [2], 4)
    with pytest.raises(ValueError, match="each row with a token"):
        tiny.embed_captions(torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="78 tokens"):
        tiny.embed_captions(torch.zeros(1, 78, dtype=torch.int64), torch.ones(1, 78, dtype=torch.bool))


@pytest.mark.parametrize("part", ["all", "clip"])
def test_bfloat16_gives_nearly_the_same_float32_vectors(part: str, tiny: Clip2Video) -> None:
    exact = tiny.embed_videos(pictures(COUNTS), COUNTS, 12)
    model = load_model(PRESETS["tiny"], Variant(), clip=None, checkpoint=None, seed=0)
    (model if part == "all" else model.clip).to(torch.bfloat16)
    for a, b in zip(exact, model.embed_videos(pictures(COUNTS), COUNTS, 12), strict=True):
        assert a is not None and b is not None and b.dtype == torch.float32
        assert (a * b).sum(1).min() > 0.99


def test_autocast_may_come_after_the_zero_picture_is_kept(tiny: Clip2Video) -> None:
    exact, _ = tiny.embed_videos(pictures(COUNTS), COUNTS, 12)
    with torch.autocast("cpu", torch.bfloat16):
        near, _ = tiny.embed_videos(pictures(COUNTS), COUNTS, 12)
    assert near.dtype == torch.float32 and (exact * near).sum(1).min() > 0.99


def test_gradients_reach_every_parameter() -> None:
    with torch.enable_grad():
        model = load_model(PRESETS["tiny"], Variant(), clip=None, checkpoint=None, seed=0).train()
        video = model.embed_videos(pictures((3, 2)), [3, 2], 4)
        ids = torch.tensor([[1022, 5, 1023], [1022, 6, 1023]])
        text = model.embed_captions(ids, torch.ones(2, 3, dtype=torch.bool))
        sum(v[:, 0].sum() for v in (*video, *text) if v is not None).backward()  # type: ignore[union-attr]
        without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == ["clip.logit_scale"]
