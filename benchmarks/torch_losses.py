"""The objective in PyTorch, with the mathematics of the authors' release: whole N x N arrays, one operation a term."""

from typing import Any

import torch
import torch.nn.functional as F


def affinity_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of the prior's logits (B, N, N) and the labels (B, N), where an ignored position is one more class."""
    target = (labels[:, :, None] == labels[:, None, :]).to(logits.dtype)
    unary = F.binary_cross_entropy_with_logits(logits, target)
    prior = logits.sigmoid()
    intra = target * (1 - torch.eye(labels.shape[1], dtype=target.dtype, device=target.device))
    inter = 1 - target
    found = (prior * intra).sum(dim=2)
    precision = _negative_log(found, prior.sum(dim=2))
    recall = _negative_log(found, intra.sum(dim=2))
    specificity = _negative_log(((1 - prior) * inter).sum(dim=2), inter.sum(dim=2))
    return unary + precision + recall + specificity


def _negative_log(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """Mean of -log of the ratio, clamped at 100; a denominator of zero counts as one."""
    ratio = numerator / torch.where(denominator == 0, 1, denominator)
    return -ratio.log().clamp(min=-100).mean()


def objective(output: Any, labels: torch.Tensor, *, aux_weight: float = 0.4) -> torch.Tensor:
    """Of the network's logits and aux_logits (B, K, h, w), its prior (B, N, N), and labels (B, H, W)."""
    stride = labels.shape[1] // output.logits.shape[2]
    segmentation, auxiliary = (
        F.cross_entropy(F.interpolate(logits.float(), labels.shape[1:], mode="bilinear"), labels, ignore_index=255)
        for logits in (output.logits, output.aux_logits)
    )
    positions = labels[:, ::stride, ::stride].flatten(1)
    return segmentation + aux_weight * auxiliary + affinity_loss(output.prior.float(), positions)
