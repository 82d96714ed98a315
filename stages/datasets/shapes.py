"""The project's own small corpus: one coloured shape in motion a clip, with captions that say which and how."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]  # [height, width, 3], RGB
Rgb = tuple[int, int, int]

LOOKS = 1  # raised when the same scene is drawn otherwise, so that older clips are not taken for it


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


# From the share of the clip's time (0 to 1) and the fixed place to a pose.
Motion = Callable[[float, float, float], Pose]


def _backwards(motion: Motion) -> Motion:
    # Rounded, so that the two directions meet in exactly the same poses.
    return lambda phase, x, y: motion(round(1 - phase, 9), x, y)


def _right(phase: float, x: float, y: float) -> Pose:
    return Pose(round(2 * phase - 1, 8), y)


def _down(phase: float, x: float, y: float) -> Pose:
    return Pose(x, round(2 * phase - 1, 8))


def _grows(phase: float, x: float, y: float) -> Pose:
    return Pose(x, y, round(0.4 + 1.2 * phase, 8))


def _around(phase: float, x: float, y: float) -> Pose:
    angle = 2 * math.pi * (2 * phase)  # twice round, clockwise from the top
    return Pose(0.8 * math.sin(angle), -0.8 * math.cos(angle))


def _blinks(phase: float, x: float, y: float) -> Pose:
    return Pose(x, y, seen=int(phase * 8.999) % 2 == 0)  # seen five times


MOTIONS: dict[str, Motion] = {
    "left": _backwards(_right),
    "right": _right,
    "up": _backwards(_down),
    "down": _down,
    "around": _around,
    "grows": _grows,
    "shrinks": _backwards(_grows),
    "blinks": _blinks,
}

# What a caption says of a motion: "it ..." and "seen ...".
WORDS = {
    "left": ("moves to the left", "moving to the left"),
    "right": ("moves to the right", "moving to the right"),
    "up": ("moves up", "moving up"),
    "down": ("moves down", "moving down"),
    "around": ("goes round and round", "going round and round"),
    "grows": ("grows larger", "growing larger"),
    "shrinks": ("shrinks", "shrinking"),
    "blinks": ("blinks on and off", "blinking on and off"),
}

TEMPLATES = (
    "{a} {colour} {shape} {does}",
    "the video shows {a} {colour} {shape} {doing}",
    "there is one {shape}, it is {colour} and it {does}",
    "a plain background with {a} {colour} {shape} {doing}",
)


@dataclass(frozen=True)
class Background:
    """A colour, or a gradient between two."""

    first: Rgb
    last: Rgb
    sideways: bool  # from left to right, else from top to bottom


@dataclass(frozen=True)
class Scene:
    """All that a clip shows. Raises ValueError for a shape, colour or motion that has no entry."""

    shape: str
    colour: str
    motion: str
    background: Background
    x: float = 0.0  # its place where the motion leaves it free, as in Pose
    y: float = 0.0
    templates: tuple[int, ...] = (0, 1)

    def __post_init__(self) -> None:
        for value, known in ((self.shape, SHAPES), (self.colour, COLOURS), (self.motion, MOTIONS)):
            if value not in known:
                raise ValueError(f"{value!r} is not one of {', '.join(known)}")


def scenes(count: int, seed: int) -> list[Scene]:
    """`count` scenes, no two with the same shape, colour and motion; a longer list begins with a shorter one.

    Raises ValueError where there are not as many.
    """
    combinations = list(product(SHAPES, COLOURS, MOTIONS))
    if not 1 <= count <= len(combinations):
        raise ValueError(f"count is {count}; there are 1 to {len(combinations)} different clips")
    order = np.random.default_rng(seed).permutation(len(combinations))[:count]
    return [_scene(combinations[number], np.random.default_rng([seed, number])) for number in order.tolist()]


def _scene(combination: tuple[str, str, str], random: np.random.Generator) -> Scene:
    shape, colour, motion = combination
    # Greys with a tint, dark or light: no shape has such a colour.
    base = random.choice([35, 60, 205, 230])
    first, last = (tuple((base + random.integers(-20, 21, 3)).tolist()) for _ in range(2))
    if random.random() < 0.4:
        last = first
    x, y = random.uniform(-0.7, 0.7, 2).round(3).tolist()
    templates = tuple(random.permutation(len(TEMPLATES))[:2].tolist())
    return Scene(shape, colour, motion, Background(first, last, bool(random.random() < 0.5)), x, y, templates)


def captions(scene: Scene) -> list[str]:
    """What the scene's templates say: its shape, colour and motion."""
    does, doing = WORDS[scene.motion]
    a = "an" if scene.colour[0] in "aeiou" else "a"
    words = {"a": a, "colour": scene.colour, "shape": scene.shape, "does": does, "doing": doing}
    return [TEMPLATES[number].format(**words) for number in scene.templates]


def draw_background(background: Background, width: int, height: int) -> Picture:
    """uint8 [height, width, 3]."""
    length, axis = (width, 0) if background.sideways else (height, 1)
    line = np.linspace(background.first, background.last, length)
    shape = (height, width, 3)
    return np.broadcast_to(np.expand_dims(line, axis), shape).round().astype(np.uint8)


def draw(scene: Scene, phase: float, background: Picture) -> Picture:
    """The scene at a share of its time (0 to 1), on its drawn background: uint8 [height, width, 3]."""
    height, width, _ = background.shape
    pose = MOTIONS[scene.motion](phase, scene.x, scene.y)
    picture = background.copy()
    if not pose.seen:
        return picture
    unit = 0.18 * min(width, height)  # pixels; 1.6 times that is the largest
    radius = unit * pose.scale
    left, top = (
        (side - 1) / 2 + place * ((side - 1) / 2 - unit * max(1.0, pose.scale) - 1)
        for side, place in ((width, pose.x), (height, pose.y))
    )
    # Only the pixels around the shape: a clip is drawn in a fraction of the time it takes to encode.
    rows = slice(max(0, math.floor(top - radius) - 1), min(height, math.ceil(top + radius) + 2))
    columns = slice(max(0, math.floor(left - radius) - 1), min(width, math.ceil(left + radius) + 2))
    y, x = np.mgrid[rows, columns].astype(np.float64)
    inside = SHAPES[scene.shape]((x - left) / radius, (y - top) / radius)
    # The edge fades over one pixel.
    share = np.clip(inside * radius + 0.5, 0, 1)[..., None]
    part = picture[rows, columns]
    picture[rows, columns] = (part + share * (np.array(COLOURS[scene.colour]) - part)).round().astype(np.uint8)
    return picture


def draw_clip(scene: Scene, frames: int, width: int, height: int) -> Iterator[Picture]:
    """The scene's pictures from its beginning to its end, uint8 [height, width, 3] each."""
    background = draw_background(scene.background, width, height)
    for frame in range(frames):
        yield draw(scene, round(frame / max(1, frames - 1), 9), background)


def write_clips(
    folder: Path,
    count: int = 24,
    seed: int = 0,
    *,
    seconds: float = 4.0,
    size: tuple[int, int] = (320, 240),
    fps: int = 25,
) -> Path:
    """Write `count` H.264 clips of `size` (width, height) and, last, `clips.jsonl`; gives the path of that.

    The same arguments give the same frames. Safe to run twice: a clip appears whole or not at all, and one that is
    there is left alone. Raises ValueError for what cannot be encoded.
    """
    width, height = size
    frames = round(seconds * fps)
    if min(width, height) < 32 or width % 2 or height % 2 or frames < 1 or fps < 1:
        raise ValueError(
            f"size {width} x {height}, {seconds} s at {fps} fps: "
            "sides have to be even and at least 32, and there has to be a frame"
        )
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for scene in scenes(count, seed):
        name = _file_name(scene, frames, width, height, fps)
        if not (folder / name).exists():
            with _replacing(folder / name) as temporary:
                _encode(temporary, draw_clip(scene, frames, width, height), width, height, fps)
        rows.append({"video": name, "captions": captions(scene)})
    table = folder / "clips.jsonl"
    with _replacing(table) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return table


def _file_name(scene: Scene, frames: int, width: int, height: int, fps: int) -> str:
    """Says what is in the clip, and by the digest all that it was drawn from."""
    content = json.dumps([LOOKS, asdict(scene), frames, width, height, fps], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{scene.colour}-{scene.shape}-{scene.motion}-{digest}.mp4"


class _replacing:
    """A temporary path beside `path`, renamed to it at the end, removed after an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.temporary.replace(self.path)
        else:
            self.temporary.unlink(missing_ok=True)


def _encode(path: Path, pictures: Iterator[Picture], width: int, height: int, fps: int) -> None:
    import av

    with av.open(f"file:{path.absolute()}", "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # One thread: the same bits on every machine.
        stream.options = {"crf": "18", "preset": "veryfast", "threads": "1"}
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
