"""From a frame's pixels to the square that the model sees (reference 3)."""

from typing import Any

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]  # [height, width, 3]
Matrix = tuple[int, int, int, int]  # a, b, c, d: a stored pixel (x, y) is shown at (ax + cy, bx + dy)

AS_STORED: Matrix = (1, 0, 0, 1)


def resized(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height in pixels once the shorter side is `size`."""
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


def display_matrix(data: bytes) -> Matrix:
    """The part of ffmpeg's 3 x 3 display matrix (int32, row by row) that turns and mirrors."""
    a, b, _, c, d = np.frombuffer(data, np.int32, 5).tolist()
    return a, b, c, d


def is_sideways(matrix: Matrix) -> bool:
    """Whether width and height swap when a frame is shown."""
    a, _, c, _ = matrix
    return abs(c) > abs(a)


def shown(picture: npt.NDArray[Any], matrix: Matrix) -> npt.NDArray[Any]:
    """The picture as it is shown: turned by the multiple of 90 degrees nearest to the matrix's, and mirrored."""
    a, b, c, d = matrix
    x, y = a, d
    if is_sideways(matrix):
        picture = picture.swapaxes(0, 1)
        x, y = c, b
    return picture[:: -1 if y < 0 else 1, :: -1 if x < 0 else 1]


def center_crop(picture: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """The middle `size` x `size` pixels; of an odd rest, the half is rounded to even."""
    top, left = (round((side - size) / 2) for side in picture.shape[:2])
    return picture[top : top + size, left : left + size]
