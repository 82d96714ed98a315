"""Pictures as JPEG, for corpora whose raw frames would not fit on the disk."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image


def compress(picture: npt.NDArray[np.uint8], quality: int) -> bytes:
    """A picture [size, size, 3] as JPEG. Its colours keep their full size: at 224 pixels, halving them shows."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def decompress(data: bytes) -> npt.NDArray[np.uint8]:
    """The picture [size, size, 3] again, nearly. Raises OSError where that is no JPEG."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return np.asarray(image.convert("RGB"))
