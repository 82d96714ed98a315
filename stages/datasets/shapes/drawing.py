"""Scenes as pictures: coloured shapes in motion on a plain background."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]  # [height, width, 3], RGB
Rgb = tuple[int, int, int]


def _polygon(sides: int, notch: float = 1.0) -> Callable[[Field, Field], Field]:
    """A regular polygon with a corner at the top; a star where `notch`, the radius between two corners, is small."""
    half = math.pi / sides
    corner = np.array([1.0, 0.0])
    between = np.array([math.cos(half), math.sin(half)]) * (notch if notch < 1 else math.cos(half))
    along = (between - corner) / np.linalg.norm(between - corner)

    def inside(x: Field, y: Field) -> Field:
        angle = np.arctan2(x, -y)
        folded = np.abs((angle + half) % (2 * half) - half)
        radius = np.hypot(x, y)
        u, v = radius * np.cos(folded) - corner[0], radius * np.sin(folded) - corner[1]
        # The second keeps the fading edges of a sharp corner from meeting far outside it.
        distance: Field = np.minimum(v * along[0] - u * along[1], 1 - radius)
        return distance

    return inside


# How far inside the edge a point is (about; negative outside), x to the right and y down, in radii from the middle.
SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    "circle": lambda x, y: 1 - np.hypot(x, y),
    "square": lambda x, y: 0.8 - np.maximum(np.abs(x), np.abs(y)),
    "triangle": _polygon(3),
    "diamond": lambda x, y: (1 - np.abs(x) / 0.7 - np.abs(y)) * 0.57,
    "star": _polygon(5, 0.42),
    "cross": lambda x, y: np.minimum(0.95 - np.maximum(np.abs(x), np.abs(y)), 0.3 - np.minimum(np.abs(x), np.abs(y))),
    "ring": lambda x, y: 0.22 - np.abs(np.hypot(x, y) - 0.75),
}

COLOURS: dict[str, Rgb] = {
    "red": (225, 30, 35),
    "orange": (255, 135, 0),
    "yellow": (250, 225, 30),
    "green": (30, 165, 60),
    "turquoise": (45, 215, 205),
    "blue": (35, 75, 230),
    "purple": (130, 40, 185),
    "pink": (255, 130, 190),
}


@dataclass(frozen=True)
class Pose:
    """Where a shape is, as fractions of its room from the middle (-1 to 1), its scale, and whether it is seen."""

    x: float
    y: float
    scale: float = 1.0
    seen: bool = True


# From the share of the clip's time (0 to 1) and the fixed place to the pose of each shape.
Motion = Callable[[float, float, float], tuple[Pose, ...]]


def _backwards(motion: Motion) -> Motion:
    # Rounded, so that the two directions meet in exactly the same poses.
    return lambda phase, x, y: motion(round(1 - phase, 9), x, y)


def _right(phase: float, x: float, y: float) -> tuple[Pose, ...]:
    return (Pose(round(2 * phase - 1, 8), y),)


def _down(phase: float, x: float, y: float) -> tuple[Pose, ...]:
    return (Pose(x, round(2 * phase - 1, 8)),)


def _grows(phase: float, x: float, y: float) -> tuple[Pose, ...]:
    return (Pose(x, y, round(0.4 + 1.2 * phase, 8)),)


def _around(phase: float, x: float, y: float) -> tuple[Pose, ...]:
    angle = 2 * math.pi * (2 * phase)  # twice round, clockwise from the top
    return (Pose(0.8 * math.sin(angle), -0.8 * math.cos(angle)),)


def _blinks(phase: float, x: float, y: float) -> tuple[Pose, ...]:
    return (Pose(x, y, seen=int(phase * 8.999) % 2 == 0),)  # seen five times


def _meet(phase: float, x: float, y: float) -> tuple[Pose, ...]:
    aside = round(0.95 - 0.65 * phase, 8)
    return Pose(-aside, y), Pose(aside, y)


MOTIONS: dict[str, Motion] = {
    "left": _backwards(_right),
    "right": _right,
    "up": _backwards(_down),
    "down": _down,
    "around": _around,
    "grows": _grows,
    "shrinks": _backwards(_grows),
    "blinks": _blinks,
    "meet": _meet,
    "part": _backwards(_meet),
}
TWO = ("meet", "part")  # the motions of two shapes

SIZES = {"small": 0.65, "medium": 1.0, "large": 1.3}


@dataclass(frozen=True)
class Background:
    """A colour, or a gradient between two."""

    first: Rgb
    last: Rgb
    sideways: bool  # from left to right, else from top to bottom
    name: str = "grey"


@dataclass(frozen=True)
class Scene:
    """All that a clip shows. Raises ValueError for a shape, colour, motion or size that has no entry."""

    shape: str
    colour: str
    motion: str
    background: Background
    x: float = 0.0  # its place where the motion leaves it free, as in Pose
    y: float = 0.0
    size: str = "medium"
    other_shape: str | None = None  # of the second one, where there are two; like the first where it is not said
    other_colour: str | None = None

    def __post_init__(self) -> None:
        for value, known in (
            (self.shape, SHAPES),
            (self.colour, COLOURS),
            (self.motion, MOTIONS),
            (self.size, SIZES),
            (self.other_shape or self.shape, SHAPES),
            (self.other_colour or self.colour, COLOURS),
        ):
            if value not in known:
                raise ValueError(f"{value!r} is not one of {', '.join(known)}")


def draw_background(background: Background, width: int, height: int) -> Picture:
    """uint8 [height, width, 3]."""
    length, axis = (width, 0) if background.sideways else (height, 1)
    line = np.linspace(background.first, background.last, length)
    shape = (height, width, 3)
    return np.broadcast_to(np.expand_dims(line, axis), shape).round().astype(np.uint8)


def draw(scene: Scene, phase: float, background: Picture) -> Picture:
    """The scene at a share of its time (0 to 1), on its drawn background: uint8 [height, width, 3]."""
    picture = background.copy()
    looks = (scene.shape, scene.colour), (scene.other_shape or scene.shape, scene.other_colour or scene.colour)
    for pose, (shape, colour) in zip(MOTIONS[scene.motion](phase, scene.x, scene.y), looks, strict=False):
        if pose.seen:
            _draw_shape(picture, pose, SHAPES[shape], COLOURS[colour], SIZES[scene.size])
    return picture


def _draw_shape(picture: Picture, pose: Pose, shape: Callable[[Field, Field], Field], colour: Rgb, size: float) -> None:
    height, width, _ = picture.shape
    unit = 0.18 * size * min(width, height)  # pixels; 1.6 times that is the largest
    radius = unit * pose.scale
    left, top = (
        (side - 1) / 2 + place * ((side - 1) / 2 - unit * max(1.0, pose.scale) - 1)
        for side, place in ((width, pose.x), (height, pose.y))
    )
    # Only the pixels around the shape: a clip is drawn in a fraction of the time it takes to encode.
    rows = slice(max(0, math.floor(top - radius) - 1), min(height, math.ceil(top + radius) + 2))
    columns = slice(max(0, math.floor(left - radius) - 1), min(width, math.ceil(left + radius) + 2))
    y, x = np.mgrid[rows, columns].astype(np.float64)
    inside = shape((x - left) / radius, (y - top) / radius)
    # The edge fades over one pixel.
    share = np.clip(inside * radius + 0.5, 0, 1)[..., None]
    part = picture[rows, columns]
    picture[rows, columns] = (part + share * (np.array(colour) - part)).round().astype(np.uint8)


def draw_clip(scene: Scene, frames: int, width: int, height: int) -> Iterator[Picture]:
    """The scene's pictures from its beginning to its end, uint8 [height, width, 3] each."""
    background = draw_background(scene.background, width, height)
    for frame in range(frames):
        yield draw(scene, round(frame / max(1, frames - 1), 9), background)
