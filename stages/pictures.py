"""The pictures of a frames shard, as pixels."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clip2video_pipe.stages.jpeg import decompress


def pixels_of(column: pa.ListArray, size: int) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """uint8 [N, size, size, 3] of all clips of a `pictures` column, and how many of them each has; none is null."""
    flat = column.flatten()
    pixels = np.empty((len(flat), size, size, 3), np.uint8)
    if not pa.types.is_fixed_size_binary(flat.type):
        for number, data in enumerate(flat.to_pylist()):
            pixels[number] = decompress(data)
    elif len(flat):
        buffer = flat.buffers()[1]
        first = flat.offset * pixels[0].size
        pixels.reshape(-1)[:] = np.frombuffer(buffer, np.uint8, pixels.size, first)
    return pixels, column.value_lengths().to_pylist()
