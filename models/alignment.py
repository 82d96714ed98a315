"""The temporal alignment block: tokens against shared centres (arXiv 2106.11097, sec. 3.3; reference 13)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pool_over_centers(tokens: Tensor, mask: Tensor, weight_center: Tensor, emb_center: Tensor) -> Tensor:
    """Unit vectors [B, D], float32, of tokens [B, T, D] under a bool mask [B, T] (reference 13).

    `weight_center` and `emb_center` are [K, D]. Each token is shared out over the centres; a centre sums what
    its tokens differ from it by, weighted by their shares.
    """
    e, centers = tokens.float(), emb_center.float()
    shares = torch.softmax(e @ weight_center.float().T, dim=-1) * mask.unsqueeze(-1)  # [B, T, K]
    sums = shares.transpose(1, 2) @ e - shares.sum(1).unsqueeze(-1) * centers  # [B, K, D]
    return F.normalize(F.normalize(sums, dim=-1).mean(1), dim=-1)  # [B, D]
