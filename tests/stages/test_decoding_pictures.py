"""What the pictures look like: as the original's, which went through ffmpeg's JPEGs and Pillow."""

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from clip2video_pipe.stages.decoding import decode, geometry
from clip2video_pipe.stages.sampling import Sampling, pick

GOLDEN = Path(__file__).parents[1] / "golden"
SIZE = 224

# Mean PSNR over the picked frames, dB. The original's JPEGs lose 40 to 47 dB of a natural clip, and more where colours
# change from pixel to pixel, as in test patterns: JPEG and Pillow spread colour otherwise than swscale does. Measured:
# natural 40.4 to 45.8; patterns 27.4 (of 10 bits) to 45. Scaling neighbours to one colour costs up to 10 of them.
NATURAL = 36.0
PATTERN = 25.0
# Of pictures that never were JPEGs: swscale's bicubic is a little sharper than Pillow's (0.6, not 0.5), no more than 4
# of 255 anywhere: 49.7 dB and above. A crop that is off by one pixel gives below 30.
BICUBIC = 48.0


def psnr(pictures, others):
    """Of each pair, dB."""
    error = np.square(np.subtract(pictures, others, dtype=np.float64)).mean((1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-6))


def pillow(image):
    """The original's picture (reference 3)."""
    width, height = image.size
    size = (SIZE, int(SIZE * height / width)) if width <= height else (int(SIZE * width / height), SIZE)
    left, top = (round((side - SIZE) / 2) for side in size)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + SIZE, top + SIZE)))


def original(path, folder):
    """The pictures that the original looks at: uint8 [n, 224, 224, 3]."""
    subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-r", "5", "-q", "0", "%08d.jpg"], cwd=folder, check=True)
    files = sorted(folder.glob("*.jpg"))
    return np.stack([pillow(Image.open(files[index]).convert("RGB")) for index in pick(len(files), 1, 12)])


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("video1.mp4", NATURAL),
        ("video11.mp4", NATURAL),
        ("flipping_a_pancake.mkv", NATURAL),
        ("nasa_13013.mp4", NATURAL),
        ("vid1.mp4", NATURAL),
        ("vid2.mp4", NATURAL),
        ("bt709_full_range.mp4", PATTERN),
        ("h264_10bits.mp4", PATTERN),
        ("h265_10bits.mp4", PATTERN),
        ("h265_video.mp4", PATTERN),
        ("av1_video.mkv", PATTERN),
        ("video_90.mov", PATTERN),
        ("unordered.mov", PATTERN),
    ],
)
def test_pictures_are_the_originals(name, least, real_clip, tmp_path):
    clip = decode(real_clip(name), Sampling(), SIZE)
    expected = original(real_clip(name), tmp_path)
    assert clip.pictures.shape == expected.shape
    assert psnr(clip.pictures, expected).mean() >= least


@pytest.mark.parametrize("number", range(5))
def test_resize_and_crop_are_the_originals(number, tmp_path, golden_inputs):
    picture = golden_inputs.image(number)
    height, width, _ = picture.shape
    path = tmp_path / "picture.mkv"
    with av.open(str(path), "w") as container:  # lossless, so that what is left is the scaling
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
        container.mux([*stream.encode(av.VideoFrame.from_ndarray(picture)), *stream.encode(None)])
    clip = decode(str(path), Sampling(), SIZE)
    with np.load(GOLDEN / "preprocess.npz") as golden:
        expected = golden[f"out_{height}x{width}"]
    assert psnr(clip.pictures, expected[None])[0] >= BICUBIC
    assert np.abs(clip.pictures[0].astype(int) - expected).max() <= 5


def test_full_range_is_respected(tmp_path):
    """A grey of 235 stays one in a full-range file, and is white in the other kind."""
    levels = {}
    for color_range in (1, 2):  # MPEG, JPEG
        path = tmp_path / f"{color_range}.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.color_range = color_range
            planes = np.full((72, 64), 128, np.uint8)
            planes[:48] = 235
            frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
            frame.color_range = color_range
            container.mux([*stream.encode(frame), *stream.encode(None)])
        levels[color_range] = decode(str(path), Sampling(), 48).pictures.mean()
    assert levels == {1: pytest.approx(255, abs=1), 2: pytest.approx(235, abs=1)}


@pytest.mark.parametrize("space", [1, 5])  # BT.709, BT.601
def test_the_colour_matrix_is_bt601_whatever_the_file_says(space, tmp_path):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv444p"
        stream.codec_context.colorspace = space
        planes = np.stack([np.full((64, 64), level, np.uint8) for level in (81, 90, 240)])  # BT.601's red
        frame = av.VideoFrame.from_ndarray(planes, "yuv444p")
        frame.colorspace = space
        container.mux([*stream.encode(frame), *stream.encode(None)])
    pixel = decode(str(path), Sampling(), 32).pictures[0, 16, 16]
    np.testing.assert_allclose(pixel, [255, 0, 0], atol=2)


SMALL = np.arange(6).reshape(2, 3)


@pytest.mark.parametrize(
    ("matrix", "seen"),
    [
        ((1, 0, 0, 1), SMALL),
        ((0, 1, -1, 0), [[3, 0], [4, 1], [5, 2]]),  # a quarter to the right
        ((0, -1, 1, 0), [[2, 5], [1, 4], [0, 3]]),
        ((-1, 0, 0, -1), [[5, 4, 3], [2, 1, 0]]),
        ((-1, 0, 0, 1), [[2, 1, 0], [5, 4, 3]]),  # a mirror
        ((0, 1, 1, 0), [[0, 3], [1, 4], [2, 5]]),
        ((0, 0, 0, 0), SMALL),
    ],
)
def test_pictures_are_turned_and_mirrored(matrix, seen):
    np.testing.assert_array_equal(geometry.shown(SMALL, matrix), seen)


def test_a_phones_clip_is_shown_upright(real_clip):
    clip = decode(real_clip("video_90.mov"), Sampling(), 64)
    assert (clip.width, clip.height) == (320, 568)  # stored the other way round


def test_cover_art_is_not_the_video(write_video, numbers, tmp_path):
    path = tmp_path / "with cover.mp4"
    with av.open(write_video(streams=[(48, "libx264")])) as source, av.open(str(path), "w") as container:
        video = container.add_stream_from_template(source.streams.video[0])
        cover = container.add_stream("png", rate=Fraction(25))
        cover.width, cover.height, cover.pix_fmt = 240, 240, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        for packet in cover.encode(av.VideoFrame.from_ndarray(np.zeros((240, 240, 3), np.uint8))):
            container.mux(packet)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                container.mux(packet)
    clip = decode(str(path), Sampling("uniform", max_frames=99), 48)
    assert (clip.width, clip.decoded) == (48, 30)
    assert numbers(clip.pictures) == list(range(30))
