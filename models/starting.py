"""The values that training begins with (reference, Training; CLIP4Clip, arXiv 2104.08860, sec. 3.3)."""

import math

import torch
from torch import Tensor

from clip2video_pipe.models.clip2video import Clip2Video
from clip2video_pipe.models.presets import ClipSize, Variant
from clip2video_pipe.models.untrained import seeded
from clip2video_pipe.models.weights import read_state

FIRST_SCALE = 1 / 0.07  # of a CLIP that is trained from nothing (Radford et al. 2021, sec. 2.5)


def starting_model(
    size: ClipSize, variant: Variant, *, clip: str | None, checkpoint: str | None, seed: int
) -> Clip2Video:
    """A float32 model on the CPU, to be trained.

    What `checkpoint`, or for the towers `clip`, holds is taken from there. The rest is drawn by `seed`; with a CLIP the
    temporal transformer begins as the first layers of its text tower, and frame positions as those of words, as
    CLIP4Clip does. Raises WeightsError as `weights.load_model` does, but for modules that a file does not have.
    """
    model = Clip2Video(size, variant)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state = {name: seeded(name, shape, size, seed) for name, shape in wanted.items()}
    state["clip.logit_scale"] = torch.tensor(math.log(FIRST_SCALE))
    if clip is not None or checkpoint is not None:
        found = read_state(size, variant, wanted, clip, checkpoint, whole=False)
        state |= found
        state |= {name: value for name, value in _from_words(state, wanted).items() if name not in found}
    model.load_state_dict({name: state[name].float() for name in wanted})
    return model


def _from_words(state: dict[str, Tensor], wanted: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Temporal weights as copies of the text tower's, where those have the shape."""
    found = {}
    for name, shape in wanted.items():
        if name == "frame_position_embeddings.weight":
            like = state["clip.positional_embedding"]
        elif name.startswith("transformerClip."):
            like = state.get("clip." + name.replace("transformerClip", "transformer", 1), torch.empty(0))
        else:
            continue
        if tuple(like.shape) == shape:
            found[name] = like.clone()
    return found
