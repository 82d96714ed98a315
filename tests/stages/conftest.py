"""Videos to decode: real ones where they are, and small ones whose frames say which they are."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

GOLDEN = Path(__file__).parents[1] / "golden"

BITS = 9  # of a frame's number, one a block of a 3 x 3 board


@pytest.fixture
def real_clip(media):
    """Gives the path of a real clip."""
    return lambda name: str(media / name)


@pytest.fixture(scope="session")
def golden_grid():
    return json.loads((GOLDEN / "ffmpeg_grid.json").read_text())


def board(number, side):
    """uint8 [side, side, 3] that shows the number; `side` is a multiple of 3."""
    bits = np.array([number >> bit & 1 for bit in range(BITS)], np.uint8).reshape(3, 3)
    return np.kron(bits, np.ones((side // 3, side // 3), np.uint8))[..., None].repeat(3, -1) * 255


def board_numbers(pictures):
    """The numbers of boards, from pictures [n, size, size, 3] of any size."""
    middles = (np.arange(3) * 2 + 1) * pictures.shape[1] // 6
    bits = pictures[:, middles][:, :, middles].mean(-1).reshape(-1, BITS) > 127
    return (bits @ (1 << np.arange(BITS))).tolist()


@pytest.fixture(scope="session")
def numbers():
    return board_numbers


@pytest.fixture
def write_video(tmp_path):
    """Writes a video of numbered boards; gives its path.

    `streams` are (side, codec) of each video stream, `stamps` the frames' times in ms where they are not even.
    """

    def write(name="clip.mp4", frames=30, rate=25, streams=((48, "libx264"),), stamps=None, container_options=None):
        path = tmp_path / name
        with av.open(f"file:{path}", "w", options=container_options or {}) as container:
            made = []
            for side, codec in streams:
                stream = container.add_stream(codec, rate=Fraction(rate))
                stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
                if stamps:
                    stream.codec_context.time_base = Fraction(1, 1000)
                if codec == "ffv1":
                    stream.gop_size = 1  # each frame by itself
                if codec == "libx264":
                    stream.options = {"crf": "12", "threads": "1"}
                made.append((stream, side // 3 * 3))
            for number in range(frames):
                for stream, side in made:
                    picture = np.zeros((stream.height, stream.width, 3), np.uint8)
                    picture[:side, :side] = board(number, side)
                    frame = av.VideoFrame.from_ndarray(picture)
                    frame.pts = stamps[number] if stamps else number
                    frame.time_base = Fraction(1, 1000) if stamps else 1 / Fraction(rate)
                    container.mux(stream.encode(frame))
            for stream, _ in made:
                container.mux(stream.encode(None))
        return str(path)

    return write
