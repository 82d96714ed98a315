"""The sizes of CLIP and the variants of CLIP2Video that exist: plain values, without torch."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, get_args

Temporal = Literal["mean", "transformer", "tdb"]
Difference = Literal["attention", "mlp", "subtract"]
Alignment = Literal["none", "tab", "tab-tdb"]


@dataclass(frozen=True)
class ClipSize:
    """The numbers that fix every shape of a CLIP with an image transformer (reference 6, 7).

    `image_size` and `patch_size` are pixels; widths are channels; `embed_dim` is the length of the vectors
    both towers give, and the width of every temporal module. `context_length` is the most tokens a caption,
    and frames a video, has.
    """

    image_size: int
    patch_size: int
    vision_width: int
    vision_layers: int
    embed_dim: int
    context_length: int
    vocab_size: int
    text_width: int
    text_heads: int
    text_layers: int

    @property
    def vision_heads(self) -> int:
        """Attention heads of the image tower: one per 64 channels."""
        return max(1, self.vision_width // 64)

    @property
    def temporal_heads(self) -> int:
        """Attention heads of the temporal modules: one per 64 channels (8 at 512, reference 10)."""
        return max(1, self.embed_dim // 64)


PRESETS: dict[str, ClipSize] = {
    "vit-b-32": ClipSize(224, 32, 768, 12, 512, 77, 49408, 512, 8, 12),
    "vit-b-16": ClipSize(224, 16, 768, 12, 512, 77, 49408, 512, 8, 12),
    "vit-l-14": ClipSize(224, 14, 1024, 24, 768, 77, 49408, 768, 12, 12),
    "tiny": ClipSize(64, 16, 128, 3, 128, 77, 1024, 128, 2, 2),  # for the demo and for tests
}


@dataclass(frozen=True)
class Variant:
    """Which of CLIP2Video's parts a model has (arXiv 2106.11097, sec. 3.2 and 3.3; reference 8-14).

    - `temporal`: how frames become the global video vector: their `mean`, a `transformer` over them, or the
      temporal difference block `tdb`.
    - `difference`: how `tdb` turns the differences of frames into tokens; without `tdb` it has no effect.
    - `alignment`: `none`, or the temporal alignment block over positions (`tab`) or over the shared TDB
      (`tab-tdb`).
    - `centers`: K, the shared centres of the alignment; without alignment it has no effect.

    Raises ValueError for an unknown value, for fewer than one centre and for `tab-tdb` without `tdb`.
    """

    temporal: Temporal = "tdb"
    difference: Difference = "attention"
    alignment: Alignment = "tab-tdb"
    centers: int = 5

    def __post_init__(self) -> None:
        _one_of("temporal", self.temporal, get_args(Temporal))
        _one_of("difference", self.difference, get_args(Difference))
        _one_of("alignment", self.alignment, get_args(Alignment))
        if self.centers < 1:
            raise ValueError(f"centers is {self.centers}, but there must be at least 1 (published models: 5 or 7)")
        if self.alignment == "tab-tdb" and self.temporal != "tdb":
            raise ValueError(
                f"alignment 'tab-tdb' shares the TDB, which temporal {self.temporal!r} does not have: "
                "set temporal to 'tdb', or alignment to 'tab' or 'none'"
            )

    @property
    def zero_shot(self) -> bool:
        """Whether CLIP's weights alone make this model: it has no module of its own."""
        return self.temporal == "mean" and self.alignment == "none"


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        near = get_close_matches(str(value), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(map(repr, known))}{hint}")
