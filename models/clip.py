"""CLIP's image and text towers (reference 6, 7), written to read OpenAI's parameter names."""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip2video_pipe.models.presets import ClipSize
from clip2video_pipe.models.transformer import Transformer

EPS = 1e-5
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of red, green and blue between 0 and 1 (reference 3)
PIXEL_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class ImageTower(nn.Module):
    """From normalised pixels [N, 3, S, S] to frame vectors [N, E], not of unit length (reference 6)."""

    def __init__(self, size: ClipSize) -> None:
        super().__init__()
        width, patch, grid = size.vision_width, size.patch_size, size.image_size // size.patch_size
        self.image_size, self.patch = size.image_size, size.patch_size
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(grid * grid + 1, width))
        self.ln_pre = nn.LayerNorm(width, eps=EPS)
        self.transformer = Transformer(width, size.vision_layers, size.vision_heads, EPS)
        self.ln_post = nn.LayerNorm(width, eps=EPS)
        self.proj = nn.Parameter(torch.empty(width, size.embed_dim))
        self._zero_picture: Tensor | None = None
        self._packed: Callable[[Tensor], Tensor] | None = None
        self.register_load_state_dict_post_hook(_forget_zero_picture)  # type: ignore[no-untyped-call]

    def forward(self, pixels: Tensor) -> Tensor:
        # A convolution whose windows do not meet is one product of patches and weights.
        N, P, G = len(pixels), self.patch, self.image_size // self.patch
        patches = pixels.view(N, 3, G, P, G, P).permute(0, 2, 4, 1, 3, 5).reshape(N, G * G, 3 * P * P)
        weight = self.conv1.weight.flatten(1)  # [C, 3 P P]
        return self._encode(F.linear(patches.to(weight.dtype), weight))

    def embed(self, pictures: Tensor) -> Tensor:
        """Frame vectors [N, E] of pictures uint8 [N, S, S, 3], normalised where the tower is."""
        if self._packed is None:
            return cast(Tensor, self(normalise_pictures(pictures)))
        return torch.cat([self._encode(self._packed(part)) for part in torch.split(pictures, self._at_a_time)])

    def pack(self, patches: Callable[[Tensor], Tensor], at_a_time: int) -> None:
        """From now on `patches` makes patch embeddings of pictures, of so many at a time."""
        self._packed, self._at_a_time = patches, at_a_time
        _forget_zero_picture(self)

    def _encode(self, x: Tensor) -> Tensor:
        """Vectors [N, E] of patch embeddings [N, patches, C]."""
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x.to(self.class_embedding.dtype)], dim=1)
        x = self.ln_pre(x + self.positional_embedding)  # [N, 1 + patches, C]
        x = self.transformer(x)  # [N, 1 + patches, C]
        vectors: Tensor = self.ln_post(x[:, 0]) @ self.proj  # [N, E]
        return vectors

    def zero_picture(self) -> Tensor:
        """The vector [E] of a picture that is zero once normalised: a padding frame's (reference quirk 2).

        In eval mode it is computed once and kept until weights are loaded, moved, cast, or trained again.
        """
        if self._zero_picture is not None:
            return self._zero_picture
        # What is kept serves in and out of inference mode. In training, gradients flow and nothing is kept.
        with torch.inference_mode(False), torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            zeros = self.conv1.weight.new_zeros(1, 3, self.image_size, self.image_size)  # [1, 3, S, S]
            vector: Tensor = self(zeros)[0]  # [E]
        if not self.training:
            self._zero_picture = vector
        return vector

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ImageTower":
        _forget_zero_picture(self)  # every move and cast comes through here
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]

    def train(self, mode: bool = True) -> "ImageTower":
        _forget_zero_picture(self)
        return super().train(mode)


def _forget_zero_picture(tower: nn.Module, _: object = None) -> None:
    assert isinstance(tower, ImageTower)
    tower._zero_picture = None


class Clip(nn.Module):
    """Both towers; `visual` gives frame vectors, `hidden_rows` what the text tower says of every token."""

    def __init__(self, size: ClipSize) -> None:
        super().__init__()
        self.visual = ImageTower(size)
        self.token_embedding = nn.Embedding(size.vocab_size, size.text_width)
        self.positional_embedding = nn.Parameter(torch.empty(size.context_length, size.text_width))
        self.transformer = Transformer(size.text_width, size.text_layers, size.text_heads, EPS)
        self.ln_final = nn.LayerNorm(size.text_width, eps=EPS)
        self.text_projection = nn.Parameter(torch.empty(size.text_width, size.embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))

    def hidden_rows(self, ids: Tensor) -> Tensor:
        """Rows [B, W, E], one a token, of ids int64 [B, W]; later tokens never change earlier rows."""
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]  # [B, W, C]
        x = self.transformer(x, causal=True)  # [B, W, C]
        rows: Tensor = self.ln_final(x) @ self.text_projection  # [B, W, E]
        return rows


def normalise_pictures(pictures: Tensor) -> Tensor:
    """Pixels float32 [N, 3, S, S] as CLIP expects them, of uint8 RGB [N, S, S, 3] (reference 3)."""
    mean = torch.tensor(PIXEL_MEAN, device=pictures.device)  # [3]
    deviation = torch.tensor(PIXEL_DEVIATION, device=pictures.device)  # [3]
    return ((pictures.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)  # [N, 3, S, S]
