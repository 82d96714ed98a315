"""The tensors of a TorchScript archive, read without running anything that is in it.

An archive is a zip: `data.pkl` (the modules' attributes, pickled), `data/N` (the bytes of storage N, not
compressed) and `code/` (the classes as text, which name their parameters and buffers). `torch.jit.load` would
compile that code. Bytes are mapped, not read: the file must not be written into while its tensors are in use.
"""

import mmap
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
}
CLASS = re.compile(r"^class (\w+)\(Module\):\n(.*?)(?=^class |\Z)", re.MULTILINE | re.DOTALL)
NAMES = re.compile(r"^  __(?:parameters|buffers)__ = \[(.*?)\]", re.MULTILINE | re.DOTALL)


def is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive; a state dict is a zip too, but holds no constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_archive(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers by their state-dict names, in the file's precision, on the CPU.

    Raises pickle.UnpicklingError if the file asks for anything but tensors, modules and plain values, and the
    errors of zipfile and torch if it is damaged.
    """
    with path.open("rb") as opened, zipfile.ZipFile(opened) as archive:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)  # the tensors keep it open
        root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
        with archive.open(root + "data.pkl") as file:
            model = _Reader(file, archive, root, mapped).load()
    if not isinstance(model, _Module):
        raise pickle.UnpicklingError("the archive holds no module")
    return dict(_tensors(model, ""))


class _Module:
    """Stands for any TorchScript class: it keeps the attributes and has no behaviour."""

    saved: frozenset[str]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = state


def _tensors(module: _Module, prefix: str) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for name, value in module.attributes.items():
        if isinstance(value, Tensor) and name in module.saved:
            found.append((prefix + name, value))
        elif isinstance(value, _Module):
            found += _tensors(value, f"{prefix}{name}.")
    return found


class _Reader(pickle.Unpickler):
    """An unpickler that knows tensors, TorchScript's classes by name, and typed lists; it imports nothing."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, root: str, mapped: mmap.mmap) -> None:
        super().__init__(file)
        self.archive, self.root, self.mapped = archive, root, mapped
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        known: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor_v2": _strided,
            "collections.OrderedDict": OrderedDict,
            "torch.jit._pickle.restore_type_tag": lambda value, _: value,
            **{f"torch.jit._pickle.build_{kind}list": list for kind in ("int", "tensor", "double", "bool")},
        }
        if module.split(".", maxsplit=1)[0] == "__torch__":
            return type(name, (_Module,), {"saved": self._saved_names(module, name)})
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if f"{module}.{name}" in known:
            return known[f"{module}.{name}"]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, count = pid
        if key not in self.storages:
            self.storages[key] = self._storage(self.archive.getinfo(f"{self.root}data/{key}"), dtype, count)
        return self.storages[key]

    def _storage(self, entry: zipfile.ZipInfo, dtype: torch.dtype, count: int) -> Tensor:
        if count <= 0:
            return torch.empty(0, dtype=dtype)
        if entry.compress_type != zipfile.ZIP_STORED or count * dtype.itemsize > entry.file_size:
            raise pickle.UnpicklingError(f"{entry.filename} is compressed or shorter than its tensor")
        header = self.mapped[entry.header_offset : entry.header_offset + 30]
        # After 30 bytes come the name and padding, whose lengths are the last two of the header's numbers.
        start = (
            entry.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:], "little")
        )
        return torch.frombuffer(self.mapped, dtype=dtype, count=count, offset=start)

    def _saved_names(self, module: str, name: str) -> frozenset[str]:
        """The attributes that a class's text calls parameters or buffers: what a state dict would hold."""
        text = self.archive.read(f"{self.root}code/{module.replace('.', '/')}.py").decode()
        body = next((body for found, body in CLASS.findall(text) if found == name), "")
        return frozenset(re.findall(r'"(\w+)"', " ".join(NAMES.findall(body))))


def _strided(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)
