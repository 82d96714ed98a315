"""CLIP2Video: video and caption vectors that never look at one another (arXiv 2106.11097; reference 6-15)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip2video_pipe.models import temporal
from clip2video_pipe.models.alignment import pool_over_centers
from clip2video_pipe.models.clip import Clip
from clip2video_pipe.models.presets import ClipSize, Variant
from clip2video_pipe.models.transformer import Transformer

# Tokens. In low precision a product's rounding depends on its width: captions that share a batch only with others of
# the same rounded length have the same vectors in any batch.
WIDTH_STEP = 4


class Clip2Video(nn.Module):
    """CLIP and the temporal modules that `variant` uses, no others, under the original's names (reference
    17).

    A fresh one holds no sensible values: `weights.load_model` makes one that does. Vectors are [B, D], D =
    `size.embed_dim`, float32 and of length 1. Each is the same in any batch, up to float rounding: it equals
    the original's at a batch of one (reference quirk 1). The model may be cast, whole or (closer to float32,
    as cheap) `clip` alone: what comes out is float32 all the same.
    """

    def __init__(self, size: ClipSize, variant: Variant) -> None:
        super().__init__()
        self.size = size
        self.variant = variant
        width, heads = size.embed_dim, size.temporal_heads
        self.clip = Clip(size)
        if not variant.zero_shot:
            self.frame_position_embeddings = nn.Embedding(size.context_length, width)
        if variant.temporal != "mean":
            self.transformerClip = Transformer(width, temporal.LAYERS, heads, temporal.EPS)
        if variant.temporal == "tdb":
            self.type_position_embeddings = nn.Embedding(2, width)
            if variant.difference != "subtract":
                self.trans_layernorm = nn.LayerNorm(width, eps=1e-5)
            if variant.difference == "attention":
                self.frame2t_attention = Transformer(width, 1, heads, temporal.EPS)
            if variant.difference == "mlp":
                self.frame2t_projection = nn.Parameter(torch.empty(width, width))
        if variant.alignment != "none":
            self.actionClip = Transformer(width, 1, heads, temporal.EPS)
            self.weight_center = nn.Parameter(torch.empty(variant.centers, width))
            self.emb_center = nn.Parameter(torch.empty(variant.centers, width))

    @property
    def scale(self) -> float:
        """What cosines are multiplied by to become logits: 100 in CLIP (reference 15)."""
        return float(self.clip.logit_scale.detach().float().exp())

    @property
    def device(self) -> torch.device:
        """Where the model computes, and so where its inputs must be."""
        return self.clip.logit_scale.device

    def recompute(self, yes: bool) -> None:
        """Whether training keeps less in memory and computes the inside of each layer again on the way back."""
        for module in self.modules():
            if isinstance(module, Transformer):
                module.recompute = yes

    def embed_videos(self, pictures: Tensor, counts: Sequence[int], max_frames: int) -> tuple[Tensor, Tensor | None]:
        """Global vectors [B, D] and aligned vectors [B, D] (None without alignment) of B videos.

        `pictures`, uint8 RGB [N, S, S, 3], are the real frames of all videos, one video after the other,
        `counts[b]` of them for video b; each video has `max_frames` places. Padding never runs through CLIP,
        but for one picture of zeros once per weights (reference quirk 2). Raises ValueError if shapes and
        counts disagree, or a video has no frame or too many.
        """
        side = self.size.image_size
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or tuple(pictures.shape[1:]) != (side, side, 3):
            raise ValueError(f"pictures are {pictures.dtype} {list(pictures.shape)}, not uint8 [N, {side}, {side}, 3]")
        if not 1 <= max_frames <= self.size.context_length:
            raise ValueError(f"max_frames is {max_frames}, but must lie between 1 and {self.size.context_length}")
        wrong = [count for count in counts if not 1 <= count <= max_frames]
        if wrong:
            raise ValueError(f"a video has {wrong[0]} frames, but each must have between 1 and max_frames={max_frames}")
        if len(counts) == 0 or sum(counts) != len(pictures):
            raise ValueError(f"counts {list(counts)} add up to {sum(counts)}, but there are {len(pictures)} pictures")

        vectors = self.clip.visual.embed(pictures)  # [N, D]
        lengths = torch.tensor(list(counts), device=vectors.device)  # [B]
        mask = torch.arange(max_frames, device=vectors.device) < lengths[:, None]  # [B, L]
        if bool(mask.all()):
            return self.video_vectors(vectors.view(len(counts), max_frames, -1), mask)
        zero = self.clip.visual.zero_picture().to(vectors.dtype)  # [D]
        frames = zero.repeat(len(counts), max_frames, 1)  # [B, L, D]
        frames[mask] = vectors  # both run video by video, frame by frame
        return self.video_vectors(frames, mask)

    def video_vectors(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Global and aligned vectors, as `embed_videos`, of CLIP's frame vectors [B, L, D].

        `mask` is bool [B, L], true on real frames, which come first. Places where it is false must hold
        `clip.visual.zero_picture()`.
        """
        if self.variant.zero_shot:
            return temporal.pool(frames, mask), None
        frames = frames.to(self.frame_position_embeddings.weight.dtype)
        if self.variant.temporal == "mean":
            context = frames  # [B, L, D]
        else:
            context = self._in_context(frames, mask, self.transformerClip, self.variant.temporal == "tdb")
        global_vector = temporal.pool(context, mask)  # [B, D]
        if self.variant.alignment == "none":
            return global_vector, None
        even, even_mask = frames[:, ::2], mask[:, ::2]  # frames 0, 2, 4, … (reference 12)
        action = self._in_context(even, even_mask, self.actionClip, self.variant.alignment == "tab-tdb")
        tokens = torch.cat([frames, action], dim=1)  # [B, L + L/2, D]
        tokens_mask = torch.cat([mask, even_mask], dim=1)  # [B, L + L/2]
        return global_vector, pool_over_centers(tokens, tokens_mask, self.weight_center, self.emb_center)

    def embed_captions(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Global and aligned vectors [B, D] (aligned: None without alignment) of captions (reference 11, 14).

        `ids` is int64 [B, W], `mask` bool [B, W]: those of `Tokenizer.batch`. Columns after the longest caption,
        rounded up to a multiple of WIDTH_STEP, are not computed. Raises ValueError if the shapes disagree, a caption
        is empty or one has more tokens than CLIP has positions.
        """
        mask = mask.bool()
        if ids.ndim != 2 or ids.shape != mask.shape or not len(ids) or not bool(mask.any(1).all()):
            raise ValueError(
                f"ids {list(ids.shape)}, mask {list(mask.shape)}: both must be [B, W], each row with a token"
            )
        longest = int(mask.any(0).nonzero().max()) + 1
        longest = min(-(-longest // WIDTH_STEP) * WIDTH_STEP, ids.shape[1])
        if longest > self.size.context_length:
            raise ValueError(f"a caption has {longest} tokens, but CLIP has {self.size.context_length} positions")
        ids, mask = ids[:, :longest], mask[:, :longest]
        rows = self.clip.hidden_rows(ids)  # [B, W, D]
        ends = ids.argmax(1)  # [B]: the end token has the largest id
        global_vector = F.normalize(rows[torch.arange(len(ids), device=ids.device), ends].float(), dim=-1)  # [B, D]
        if self.variant.alignment == "none":
            return global_vector, None
        words = mask.clone()
        words[:, 0] = False  # the start token says nothing
        return global_vector, pool_over_centers(rows, words, self.weight_center, self.emb_center)

    def _in_context(self, frames: Tensor, mask: Tensor, layers: Transformer, with_differences: bool) -> Tensor:
        """Frames [B, L, D] plus what `layers` makes of them, alone or among differences (reference 9-12)."""
        positions = self.frame_position_embeddings.weight  # [P, D]
        if with_differences:
            d = self._differences(frames, mask)  # [B, L-1, D]
            types = self.type_position_embeddings.weight  # [2, D]
            tokens, tokens_mask = temporal.interleave(frames, mask, d, positions, types)  # [B, 2L-1, D]
            seen: Tensor = layers(tokens, tokens_mask)[:, ::2]  # [B, L, D]
        else:
            seen = layers(frames + positions[: frames.shape[1]], mask)  # [B, L, D]
        return frames + seen

    def _differences(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Difference tokens [B, L-1, D] (reference 8)."""
        if self.variant.difference == "subtract":
            return temporal.differences(frames)
        if self.variant.difference == "mlp":
            return temporal.squash(temporal.differences(frames) @ self.frame2t_projection, self.trans_layernorm)
        positions = self.frame_position_embeddings.weight  # [P, D]
        return temporal.attention_differences(frames, mask, positions, self.frame2t_attention, self.trans_layernorm)
