"""TorchScript archives are read as `torch.jit.load` would, without running what is in them."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clip2video_pipe.models.errors import WeightsError
from clip2video_pipe.models.presets import PRESETS, Variant
from clip2video_pipe.models.torchscript import is_archive, read_archive
from clip2video_pipe.models.weights import load_model, read_tensors

# torch.jit is on its way out, and tracing warns about shapes; the archives of 2021 stay as they are.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")

SIZE, ZERO_SHOT = PRESETS["tiny"], Variant(temporal="mean", alignment="none")


class LikeOpenAI(nn.Module):
    """Half-precision CLIP with OpenAI's three notes, and an attention mask that is no weight."""

    def __init__(self) -> None:
        super().__init__()
        clip = load_model(SIZE, ZERO_SHOT, clip=None, checkpoint=None, seed=3).clip.half()
        self.visual, self.transformer, self.ln_final = clip.visual, clip.transformer, clip.ln_final
        self.token_embedding, self.positional_embedding = clip.token_embedding, clip.positional_embedding
        self.text_projection, self.logit_scale = clip.text_projection, clip.logit_scale
        self.attn_mask = torch.zeros(77, 77)
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(getattr(SIZE, name, SIZE.image_size)))

    def forward(self, pixels: Tensor) -> Tensor:
        vectors: Tensor = self.visual(pixels)
        return vectors + self.attn_mask.sum()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torchscript") / "tiny.pt"
    pixels = torch.zeros(1, 3, SIZE.image_size, SIZE.image_size)
    traced = torch.jit.trace(LikeOpenAI().eval(), pixels, check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, path)
    return path


def test_the_tensors_are_those_of_jit_load(archive: Path) -> None:
    ours = read_archive(archive)
    theirs = torch.jit.load(archive).state_dict()  # type: ignore[no-untyped-call]
    assert is_archive(archive) and ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0)


def test_an_archive_makes_a_float32_model(archive: Path) -> None:
    model = load_model(SIZE, ZERO_SHOT, clip=str(archive), checkpoint=None, seed=None)
    seeded = load_model(SIZE, ZERO_SHOT, clip=None, checkpoint=None, seed=3)
    for name, value in seeded.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value.half().float(), rtol=0, atol=0)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, ("open('touched', 'w')",))


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"visual.proj": Evil()}, "state.pt")
    with zipfile.ZipFile("script.pt", "w") as file:
        file.writestr("script/data.pkl", pickle.dumps(Evil(), protocol=2))
        file.writestr("script/constants.pkl", b"")
    for path in ("state.pt", "script.pt"):
        with pytest.raises(WeightsError, match="cannot be read as weights"):
            read_tensors(path)
    assert not Path("touched").exists()
