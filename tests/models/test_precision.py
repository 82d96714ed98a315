"""Lower precision changes vectors by little, and who wins by less."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clip2video_pipe.models import precision
from clip2video_pipe.models.clip2video import Clip2Video
from clip2video_pipe.models.packed import can_pack
from clip2video_pipe.models.precision import best_precision, compile_images, prepare
from clip2video_pipe.models.presets import PRESETS, Variant
from clip2video_pipe.models.text import Tokenizer
from clip2video_pipe.models.weights import load_model

LEAST = 0.999  # cosine to float32: rounding to 8 bits, averaged over 12 layers
LOW = ["bfloat16", "float16"]
CAPTIONS = ["a woman flips a pancake", "three brown bears rest on the grass near the water", "the great wall", "a"]

Load = Callable[[str], Clip2Video]


@pytest.fixture(scope="module")
def full_size(full_size_weights: Path) -> Load:
    def load(name: str) -> Clip2Video:
        model = load_model(PRESETS["vit-b-32"], Variant(), clip=None, checkpoint=str(full_size_weights), seed=None)
        return prepare(model, name, "cpu")  # type: ignore[arg-type]

    return load


def pictures(count: int, size: int) -> torch.Tensor:
    """Smooth ones, like photographs: noise is the easy case."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(count, 3, 8, 8, generator=generator) * 255
    return F.interpolate(small, size=size, mode="bicubic").clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def vectors(model: Clip2Video, shown: torch.Tensor, counts: list[int]) -> list[torch.Tensor]:
    ids, mask = Tokenizer(model.size.vocab_size).batch(CAPTIONS, 32)
    with torch.inference_mode():
        found = (*model.embed_videos(shown, counts, 12), *model.embed_captions(torch.tensor(ids), torch.tensor(mask)))
    return [part for part in found if part is not None]


@pytest.mark.parametrize("name", LOW)
def test_every_vector_is_near_that_of_float32(name: str, full_size: Load) -> None:
    shown, counts = pictures(16, 224), [12, 3, 1]
    exact, low = (vectors(full_size(p), shown, counts) for p in ("float32", name))
    assert len(exact) == 4
    for theirs, ours in zip(exact, low, strict=True):
        assert ours.dtype == torch.float32
        assert F.cosine_similarity(theirs, ours).min() >= LEAST


def test_vectors_of_real_clips_are_near_those_of_float32(media: Path, full_size: Load) -> None:
    from clip2video_pipe.stages.decoding import decode
    from clip2video_pipe.stages.sampling import Sampling

    names = ["video1.mp4", "flipping_a_pancake.mkv", "vid2.mp4", "nasa_13013.mp4", "h265_10bits.mp4", "video_90.mov"]
    clips = [decode(str(media / name), Sampling(), 224).pictures for name in names]
    shown = torch.from_numpy(np.concatenate(clips))
    exact, low = (vectors(full_size(p), shown, [len(c) for c in clips]) for p in ("float32", best_precision("cpu")))
    for theirs, ours in zip(exact, low, strict=True):
        assert F.cosine_similarity(theirs, ours).min() >= LEAST


@pytest.mark.parametrize("name", LOW)
def test_ranks_with_margins_do_not_change(name: str) -> None:
    """200 pictures, and 200 queries each a noisy copy of one: whoever was first by a margin still is."""
    shown = pictures(200, 64)
    found = []
    for p in ("float32", name):
        model = prepare(load_model(PRESETS["tiny"], Variant(), clip=None, checkpoint=None, seed=3), p, "cpu")  # type: ignore[arg-type]
        with torch.inference_mode():
            frames = model.clip.visual.embed(shown)
        found.append(F.normalize(frames - frames.mean(0), dim=-1))
    exact, low = found
    noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1))
    queries = F.normalize(exact + 0.05 * noise, dim=-1)
    best = (queries @ exact.T).topk(2).values
    clear = best[:, 0] - best[:, 1] > 0.01
    same = (queries @ exact.T).argmax(1) == (queries @ low.T).argmax(1)
    assert clear.sum() >= 100
    assert same[clear].float().mean() >= 0.99


@pytest.mark.skipif(not can_pack(torch.device("cpu")), reason="oneDNN has no bfloat16 products on this CPU")
def test_packed_pictures_do_not_depend_on_how_they_are_cut() -> None:
    model = prepare(load_model(PRESETS["tiny"], Variant(), clip=None, checkpoint=None, seed=0), "bfloat16", "cpu")
    shown = pictures(100, 64)
    with torch.inference_mode():
        whole = F.normalize(model.clip.visual.embed(shown), dim=-1)
        alone = F.normalize(torch.cat([model.clip.visual.embed(shown[n : n + 1]) for n in range(0, 100, 9)]), dim=-1)
    assert (whole[::9] - alone).abs().max() <= 1e-5


@pytest.mark.skipif(not can_pack(torch.device("cpu")), reason="oneDNN has no bfloat16 products on this CPU")
def test_packed_captions_do_not_depend_on_their_batch(full_size: Load) -> None:
    """As the stage embeds them: with others whose length rounds up to the same, as many as there are."""
    from clip2video_pipe.models.clip2video import WIDTH_STEP
    from clip2video_pipe.stages.batches import by_length

    model, tokenizer = full_size("bfloat16"), Tokenizer()
    texts = [" ".join(["a brown dog runs over the wet grass and barks at two cats"] * 3)[: 3 * n] for n in range(2, 50)]
    ids, mask = (torch.from_numpy(part) for part in tokenizer.batch(texts, 32))

    def embed(rows: range) -> dict[int, torch.Tensor]:
        found: dict[int, torch.Tensor] = {}
        for group in by_length(mask[list(rows)].sum(1).tolist(), WIDTH_STEP, 4096):
            at = [rows[index] for index in group]
            with torch.inference_mode():
                found |= dict(zip(at, torch.cat(model.embed_captions(ids[at], mask[at]), 1), strict=True))  # type: ignore[arg-type]
        return found

    whole = embed(range(len(texts)))
    for step in (5, 7):
        for row, vector in embed(range(1, len(texts), step)).items():
            assert (vector - whole[row]).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("flags", "capability", "device", "expected"),
    [
        ("fpu avx512_bf16", "", "auto", "bfloat16"),
        ("fpu avx2", "", "auto", "float32"),
        ("fpu avx2", "8.6\n9.0", "auto", "bfloat16"),
        ("fpu avx2", "9.0\n7.5", "cuda", "float16"),
        ("fpu avx2", "6.1", "auto", "float32"),
        ("fpu avx512_bf16", "7.5", "cpu", "bfloat16"),
    ],
)
def test_auto_is_what_the_hardware_multiplies(
    flags: str, capability: str, device: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{capability}'\n" if capability else "#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert best_precision(device) == expected


def test_a_compiled_image_tower_gives_the_same_vectors() -> None:
    model = prepare(load_model(PRESETS["tiny"], Variant(), clip=None, checkpoint=None, seed=0), "float32", "cpu")
    shown = pictures(5, 64)
    with torch.inference_mode():
        expected = model.embed_videos(shown, [3, 2], 12)[0]
        compile_images(model, backend="eager")
        found = model.embed_videos(shown, [3, 2], 12)[0]
    assert (found - expected).abs().max() <= 1e-5
