"""Which scenes there are, and what is said of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from clip2video_pipe.stages.datasets.shapes.drawing import (
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    TWO,
    Background,
    Pose,
    Rgb,
    Scene,
)

# What a caption says of a motion: "it ..." (or "they ...") and "seen ...".
WORDS = {
    "left": ("moves to the left", "moving to the left"),
    "right": ("moves to the right", "moving to the right"),
    "up": ("moves up", "moving up"),
    "down": ("moves down", "moving down"),
    "around": ("goes round and round", "going round and round"),
    "grows": ("grows larger", "growing larger"),
    "shrinks": ("shrinks", "shrinking"),
    "blinks": ("blinks on and off", "blinking on and off"),
    "meet": ("meet", "meeting"),
    "part": ("part", "parting"),
}

# `it` is a shape with all that is said of it; `its` without the colour; `both` are two.
SAID = (
    "{it} {does}{on}",
    "the video shows {it} {doing}{on}",
    "there is one {its}, it is {colour} and it {does}{on}",
    "{doing}{on}: {it}",
    "somebody filmed {it} that {does}{on}",
)
SAID_OF_TWO = (
    "{both} {does}{on}",
    "the video shows {both} {doing}{on}",
    "somebody filmed {both} that {does}{on}",
)
# In orders that are in no caption to train on.
SAID_IN_TESTS = ("what {does}{on} is {it}", "{one_its} in {colour} is {doing}{on}")
SAID_OF_TWO_IN_TESTS = ("{doing}{on}: {both}",)

GROUNDS: dict[str, Rgb] = {
    "black": (22, 22, 26),
    "white": (236, 236, 233),
    "grey": (128, 130, 128),
    "brown": (96, 66, 40),
}
TINT = 12  # that a ground's colour may be off by

# Motions that are each other's reverse are one kind: clips of both are made of the same pictures.
KINDS = (("left", "right"), ("up", "down"), ("grows", "shrinks"), ("meet", "part"), ("around",), ("blinks",))

MOMENTS = 12  # of a clip, that stills are taken at
STILLS = 3  # of each clip to train on


@dataclass(frozen=True)
class Told:
    """A scene, and its captions."""

    scene: Scene
    captions: tuple[str, ...]


def scenes(count: int, seed: int) -> list[Told]:
    """`count` scenes of one shape, no two with the same shape, colour and motion; a longer list begins with a shorter.

    Raises ValueError where there are not as many.
    """
    combinations = list(product(SHAPES, COLOURS, [motion for motion in MOTIONS if motion not in TWO]))
    if not 1 <= count <= len(combinations):
        raise ValueError(f"count is {count}; there are 1 to {len(combinations)} different clips")
    order = np.random.default_rng(seed).permutation(len(combinations))[:count]
    found = []
    for number in order.tolist():
        shape, colour, motion = combinations[number]
        random = np.random.default_rng([seed, number])
        scene = Scene(shape, colour, motion, _background(random, _grey(random)), *_place(random))
        first, second = random.permutation(len(SAID))[:2].tolist()
        found.append(Told(scene, tuple(_caption(scene, SAID[n], "", False) for n in (first, second))))
    return found


def split_scenes(train: int, val: int, test: int, seed: int) -> dict[str, list[Told]]:
    """Scenes to train, validate and test on, by these names; no more than asked for of each.

    What is tested or validated shows shapes and colours in motions that the training clips do not put together (of two
    shapes, the first one), and tests say it in words of another order. Clips of motions that can be reversed come in
    pairs that are alike in every picture, but for their order. Raises ValueError where there are not as many different
    ones.
    """
    looks = list(product(SHAPES, COLOURS))
    of_kind = {"test": -(-test // len(MOTIONS)), "val": -(-val // len(MOTIONS))}
    if sum(of_kind.values()) > len(looks) - len(COLOURS):
        most = (len(looks) - len(COLOURS)) * len(MOTIONS)
        raise ValueError(f"val and test are {val} and {test} clips; there are {most} different ones for both")
    found: dict[str, list[Told]] = {"train": [], "val": [], "test": []}
    for n, kind in enumerate(KINDS):
        random = np.random.default_rng([seed, n])
        order = [looks[at] for at in random.permutation(len(looks)).tolist()]
        for split, count in of_kind.items():
            mine, order = order[:count], order[count:]
            for look in mine:
                scene = _scene(kind[0], look, random)
                found[split] += [_told(replace(scene, motion=motion), random, split == "test") for motion in kind]
        share = train * (n + 1) // len(KINDS) - train * n // len(KINDS)
        for at in range(share):
            scene = _scene(kind[at % len(kind)], order[int(random.integers(len(order)))], random)
            found["train"].append(_told(scene, random, False))
    return {split: found[split][:count] for split, count in (("train", train), ("val", val), ("test", test))}


def still_captions(scene: Scene, random: np.random.Generator) -> Iterator[tuple[int, str]]:
    """Some moments of a clip, from 0 to MOMENTS - 1, each with what is seen then: shapes, sizes and places."""
    for moment in sorted(random.permutation(MOMENTS)[:STILLS].tolist()):
        poses = MOTIONS[scene.motion](round(moment / (MOMENTS - 1), 9), scene.x, scene.y)
        if not poses[0].seen:
            continue
        on = f" on {scene.background.name}" if random.random() < 0.4 else ""
        if len(poses) == 2:
            far = "close together" if abs(poses[0].x) < 0.6 else "far apart"
            yield moment, f"{_both(scene)}, {far}{on}"
            continue
        size = _size_seen(poses[0].scale * SIZES[scene.size]) if random.random() < 0.6 else ""
        it = _with_article(f"{size} {scene.colour} {scene.shape}".strip())
        where = _place_seen(poses[0])
        yield moment, str(random.choice([f"{it} {where}{on}", f"{where}: {it}{on}", f"a picture of {it} {where}{on}"]))


def _scene(motion: str, look: tuple[str, str], random: np.random.Generator) -> Scene:
    ground = str(random.choice(list(GROUNDS)))
    other: tuple[str | None, str | None] = (None, None)
    if motion in TWO:
        shapes = [shape for shape in SHAPES if shape != look[0]]
        colours = [colour for colour in COLOURS if colour != look[1]]
        other = str(random.choice(shapes)), str(random.choice(colours))
    size = str(random.choice(["small", "large"]))
    background = _background(random, GROUNDS[ground], ground)
    return Scene(*look, motion, background, *_place(random), size, *other)


def _told(scene: Scene, random: np.random.Generator, test: bool) -> Told:
    """With two captions: a short one, and one that says more."""
    if scene.motion in TWO:
        templates: Sequence[str] = SAID_OF_TWO_IN_TESTS if test else SAID_OF_TWO
    else:
        templates = SAID_IN_TESTS if test else SAID
    chosen = [templates[int(n)] for n in random.integers(len(templates), size=2)]
    # The larger and smaller that a shape grows or shrinks to leave no word for its size.
    size = scene.size if scene.motion not in (*TWO, "grows", "shrinks") else ""
    return Told(scene, (_caption(scene, chosen[0], "", False), _caption(scene, chosen[1], size, True)))


def _caption(scene: Scene, template: str, size: str, says_ground: bool) -> str:
    does, doing = WORDS[scene.motion]
    its = f"{size} {scene.shape}".strip()
    return template.format(
        it=_with_article(f"{size} {scene.colour} {scene.shape}".strip()),
        its=its,
        one_its=_with_article(its),
        both=_both(scene),
        colour=scene.colour,
        does=does,
        doing=doing,
        on=f" on {scene.background.name}" if says_ground else "",
    )


def _both(scene: Scene) -> str:
    other = f"{scene.other_colour or scene.colour} {scene.other_shape or scene.shape}"
    return f"{_with_article(f'{scene.colour} {scene.shape}')} and {_with_article(other)}"


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _place(random: np.random.Generator) -> tuple[float, float]:
    x, y = random.uniform(-0.7, 0.7, 2).round(3).tolist()
    return x, y


def _grey(random: np.random.Generator) -> Rgb:
    """Dark or light: no shape has such a colour."""
    base = int(random.choice([35, 60, 205, 230]))
    return base, base, base


def _background(random: np.random.Generator, colour: Rgb, name: str = "grey") -> Background:
    """About a colour: plain, or from one tint of it to another."""
    tints = [tuple((np.array(colour) + random.integers(-TINT, TINT + 1, 3)).clip(0, 255).tolist()) for _ in range(2)]
    if random.random() < 0.4:
        tints[1] = tints[0]
    return Background(tints[0], tints[1], bool(random.random() < 0.5), name)


def _size_seen(scale: float) -> str:
    for most, word in ((0.5, "tiny"), (0.8, "small"), (1.05, "middling"), (1.4, "large")):
        if scale < most:
            return word
    return "huge"


def _place_seen(pose: Pose) -> str:
    across = "left" if pose.x < -0.33 else "right" if pose.x > 0.33 else ""
    down = "top" if pose.y < -0.33 else "bottom" if pose.y > 0.33 else ""
    return f"at the {f'{down} {across}'.strip()}" if across or down else "in the middle"
