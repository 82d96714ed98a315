"""Frames as JPEG: nearly the same pictures, a fraction of the bytes."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from clip2video_pipe.manifests import schemas
from clip2video_pipe.stages.frames import Frames
from clip2video_pipe.stages.jpeg import compress, decompress
from clip2video_pipe.stages.sampling import Sampling


@pytest.fixture
def picture():
    """uint8 [224, 224, 3], smooth as photographs are."""
    small = np.random.default_rng(0).integers(0, 255, (14, 14, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((224, 224), Image.Resampling.BICUBIC))


def test_a_picture_comes_back_nearly_the_same(picture):
    data = compress(picture, 95)
    assert len(data) < picture.nbytes / 5
    found = decompress(data)
    assert (found.shape, found.dtype) == (picture.shape, picture.dtype)
    assert np.abs(found.astype(int) - picture).mean() < 2
    assert len(compress(picture, 60)) < len(data)


def test_what_is_no_jpeg_is_an_error():
    with pytest.raises(OSError, match="cannot identify"):
        decompress(b"no picture")


def test_the_key_holds_the_quality_of_jpeg_alone():
    common = {"sampling": Sampling(), "size": 24}
    keys = [Frames(**common, **more).identity.key for more in ({}, {"quality": 50}, {"encoding": "jpeg"})]
    keys.append(Frames(**common, encoding="jpeg", quality=50).identity.key)
    assert keys[0] == keys[1] and len(set(keys)) == 3


def test_rows_hold_pictures_as_jpeg(write_video, numbers):
    path = write_video(frames=30)
    table = pa.table(
        {"item": ["a", "b"], "path": [path.encode(), b"/none.mp4"], "start": [None] * 2, "end": [None] * 2}
    )
    stage = Frames(sampling=Sampling(max_frames=4), size=48, encoding="jpeg")
    found = stage.process(table)
    assert found.schema == schemas.frames(48, raw=False)
    pictures, none = found["pictures"].to_pylist()
    assert none is None
    raw = Frames(sampling=Sampling(max_frames=4), size=48).process(table)["pictures"].to_pylist()[0]
    expected = np.frombuffer(b"".join(raw), np.uint8).reshape(-1, 48, 48, 3)
    assert numbers(np.stack([decompress(data) for data in pictures])) == numbers(expected)
