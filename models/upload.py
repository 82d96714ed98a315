"""From host memory to the device that computes, while it computes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Uploaded:
    """A tensor that may still be on its way; `tensor()` gives it to the stream that uses it."""

    _tensor: Tensor
    _arrived: Any = None  # a CUDA event

    def tensor(self) -> Tensor:
        if self._arrived is not None:
            stream = torch.cuda.current_stream(self._tensor.device)
            stream.wait_event(self._arrived)
            self._tensor.record_stream(stream)  # its memory is not given away before the stream is done with it
        return self._tensor


class Uploader:
    """Copies arrays to a device. To a GPU by way of pinned memory, on a stream of its own; on a CPU it is a view."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, array: np.ndarray) -> Uploaded:
        """`array` must not be written to until the tensor has been used."""
        if self._stream is None:
            return Uploaded(torch.from_numpy(array).to(self._device))
        with torch.cuda.stream(self._stream):
            tensor = torch.from_numpy(array).pin_memory().to(self._device, non_blocking=True)
            return Uploaded(tensor, self._stream.record_event())
