"""From a decoded frame to the small picture that the model sees (reference 3)."""

from collections.abc import Iterable
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from clip2video_pipe.stages.decoding import geometry
from clip2video_pipe.stages.decoding.failures import DecodeError
from clip2video_pipe.stages.decoding.opening import reason
from clip2video_pipe.stages.sampling import Indices

# Without full chroma, swscale gives two neighbouring pixels one colour: up to 10 dB further from the original.
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class Pictures:
    """Small pictures of some frames of a video, by the frames' indices among all that it shows."""

    def __init__(self, path: str, size: int, indices: Indices) -> None:
        self.width = self.height = 0  # of the video as it is shown, pixels
        self._path, self._size = path, size
        self._slots = {index: slot for slot, index in enumerate(indices.tolist())}
        self._pixels = np.empty((len(indices), size, size, 3), np.uint8)
        self._made: set[int] = set()
        self._scaler = VideoReformatter()

    def has(self, indices: Iterable[int]) -> bool:
        """Whether all of these are made."""
        return self._made.issuperset(indices)

    @property
    def complete(self) -> bool:
        """Whether all that were asked for are made."""
        return len(self._made) == len(self._slots)

    def take(self, indices: Iterable[int]) -> npt.NDArray[np.uint8]:
        """Pictures [n, size, size, 3] of these frames; no copy where they are neighbours, none of them twice."""
        slots = [self._slots[index] for index in indices]
        if slots == list(range(slots[0], slots[0] + len(slots))):
            return self._pixels[slots[0] : slots[0] + len(slots)]
        return self._pixels[slots]

    def add(self, index: int, frame: VideoFrame) -> None:
        """Make the picture of a frame, if it is asked for. Raises DecodeError where its pixels cannot be converted."""
        slot = self._slots.get(index)
        if slot is None:
            return
        matrix = matrix_of(frame)
        if not self._made:
            self.width, self.height = frame.width, frame.height
            if geometry.is_sideways(matrix):
                self.width, self.height = self.height, self.width
        self._draw(frame, matrix, self._pixels[slot])
        self._made.add(index)

    def _draw(self, frame: VideoFrame, matrix: geometry.Matrix, picture: npt.NDArray[np.uint8]) -> None:
        width, height = geometry.resized(frame.width, frame.height, self._size)
        try:
            small = self._scaler.reformat(
                frame,
                width,
                height,
                "gbrp",  # planes: the same numbers as rgb24, three times as fast
                # BT.601 whatever the file says: the original's pictures went through JPEG.
                src_colorspace=Colorspace.ITU601,
                dst_colorspace=Colorspace.ITU601,
                src_color_range=frame.color_range,
                dst_color_range=ColorRange.JPEG,
                interpolation=SCALING,
                threads=1,
            )
        except av.FFmpegError as error:
            if isinstance(error, MemoryError):
                raise
            raise DecodeError("unreadable", self._path, f"{frame.format.name} pictures: {reason(error)}") from error
        for channel, plane in zip((1, 2, 0), small.planes, strict=True):
            pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)[:, :width]
            picture[..., channel] = geometry.center_crop(geometry.shown(pixels, matrix), self._size)


def matrix_of(frame: VideoFrame) -> geometry.Matrix:
    """How a frame is turned when it is shown."""
    data = cast(Any, frame.side_data).get("DISPLAYMATRIX")
    return geometry.AS_STORED if data is None else geometry.display_matrix(bytes(data))
