"""Nothing in a weights file can run code, whatever kind of file it is: one line says what it asked for."""

import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clip2video_pipe.models.errors import WeightsError
from clip2video_pipe.models.inspection import describe
from clip2video_pipe.models.presets import PRESETS, Variant
from clip2video_pipe.models.weights import load_model

REFUSED = r"it asks for ((__builtin__|builtins)\.)?eval, .* it was not run|it is no state dict, or damaged"
TINY, ZERO_SHOT = PRESETS["tiny"], Variant(temporal="mean", alignment="none")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, ("open('touched', 'w')",))


def plain_pickle(folder: Path) -> Path:
    (folder / "clip.bin").write_bytes(pickle.dumps({"visual.proj": Evil()}, protocol=2))
    return folder / "clip.bin"


def newer_pickle(folder: Path) -> Path:
    (folder / "clip.bin").write_bytes(pickle.dumps({"visual.proj": Evil()}, protocol=4))
    return folder / "clip.bin"


def old_state_dict(folder: Path) -> Path:
    torch.save({"visual.proj": Evil()}, folder / "clip.pth", _use_new_zipfile_serialization=False)
    return folder / "clip.pth"


def zip_state_dict(folder: Path) -> Path:
    torch.save({"visual.proj": torch.zeros(1), "evil": Evil()}, folder / "clip.pt")
    return folder / "clip.pt"


def training_checkpoint(folder: Path) -> Path:
    torch.save({"state_dict": {"visual.proj": torch.zeros(1)}, "optimizer": Evil()}, folder / "epoch_1.pt")
    return folder / "epoch_1.pt"


def archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "script.pt", "w") as file:
        file.writestr("script/data.pkl", pickle.dumps(Evil(), protocol=2))
        file.writestr("script/constants.pkl", b"")
    return folder / "script.pt"


def hugging_face_folder(folder: Path) -> Path:
    (folder / "config.json").write_text("{}")
    torch.save({"logit_scale": Evil()}, folder / "pytorch_model.bin")
    return folder


def pickle_named_safetensors(folder: Path) -> Path:
    return plain_pickle(folder).rename(folder / "model.safetensors")


WRITERS: list[Callable[[Path], Path]] = [
    plain_pickle,
    newer_pickle,
    old_state_dict,
    zip_state_dict,
    training_checkpoint,
    archive,
    hugging_face_folder,
    pickle_named_safetensors,
]


@pytest.mark.parametrize("write", WRITERS)
def test_code_in_a_file_is_not_run(
    write: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(write(tmp_path))
    for read in (
        lambda: load_model(TINY, ZERO_SHOT, clip=path, checkpoint=None, seed=None),
        lambda: load_model(TINY, Variant(), clip=None, checkpoint=path, seed=None),
        lambda: describe(path),
    ):
        with pytest.raises(WeightsError, match=REFUSED) as error:
            read()
        assert "\n" not in str(error.value)
    assert not Path("touched").exists()


def test_the_files_would_run_if_they_were_let(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above is worth something only if the files are as bad as they should be."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(plain_pickle(tmp_path).read_bytes())  # noqa: S301
    assert Path("touched").exists()


def test_an_archives_code_is_not_compiled(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the archive's code was compiled")

    monkeypatch.setattr(torch.jit, "load", refuse)
    monkeypatch.setattr(torch._C, "import_ir_module", refuse)
    before = set(sys.modules)
    load_model(TINY, ZERO_SHOT, clip=str(archive), checkpoint=None, seed=None)
    assert not {name for name in set(sys.modules) - before if "__torch__" in name}


@pytest.mark.parametrize("change", ["longer than its bytes", "compressed"])
def test_an_archive_whose_tensors_lie_about_themselves_is_refused(change: str, archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.pt"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            storage = "/data/" in entry.filename
            if storage and change == "longer than its bytes":
                data = data[: len(data) // 2]
            packed = zipfile.ZIP_DEFLATED if storage and change == "compressed" else zipfile.ZIP_STORED
            new.writestr(entry.filename, data, compress_type=packed)
    with pytest.raises(WeightsError, match="is compressed or shorter than its tensor"):
        load_model(TINY, ZERO_SHOT, clip=str(path), checkpoint=None, seed=None)
