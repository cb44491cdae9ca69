"""The losses in PyTorch, as in the authors' release: whole N x N arrays, one operation per term."""

from typing import Any

import torch
import torch.nn.functional as F


def affinity_loss(prior: torch.Tensor, ideal: torch.Tensor) -> torch.Tensor:
    """Affinity loss of the context prior and the ideal affinity map, both (B, N, N)."""
    other = 1 - ideal
    off_diagonal = ideal * (1 - torch.eye(ideal.shape[1], device=ideal.device))
    hits = (off_diagonal * prior).sum(dim=2)
    loss = F.binary_cross_entropy(prior, ideal)
    loss = loss + _unit_entropy(hits, prior.sum(dim=2)) + _unit_entropy(hits, off_diagonal.sum(dim=2))
    return loss + _unit_entropy((other * (1 - prior)).sum(dim=2), other.sum(dim=2))


def _unit_entropy(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    ratio = numerator / denominator.masked_fill(denominator <= 0, 1)
    return F.binary_cross_entropy(ratio, torch.ones_like(ratio))


def objective(output: Any, labels: torch.Tensor, *, aux_weight: float = 0.4) -> torch.Tensor:
    """Total loss of logits and aux_logits (B, K, h, w), the prior's logits (B, N, N), and labels (B, H, W)."""
    stride = labels.shape[1] // output.logits.shape[2]
    segmentation, auxiliary = (
        F.cross_entropy(F.interpolate(logits.float(), labels.shape[1:], mode="bilinear"), labels, ignore_index=255)
        for logits in (output.logits, output.aux_logits)
    )
    positions = labels[:, ::stride, ::stride].flatten(1)
    ideal = (positions[:, :, None] == positions[:, None, :]).float()
    return segmentation + aux_weight * auxiliary + affinity_loss(output.prior.float().sigmoid(), ideal)
