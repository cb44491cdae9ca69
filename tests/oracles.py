"""Float64 reference implementations of the losses, from the paper's formulas; they share no code with `cpnet_jax`.

They are plain and slow on purpose: one image and one row of the prior at a time. They take and return float64 torch
tensors, so that autograd computes the gradients; labels are numpy integers. `parity.torch_cpnet` is the reference for
the network.
"""

import types

import numpy as np
import torch
import torch.nn.functional as F

TERMS = ("total", "unary", "precision", "recall", "specificity")


def tensor(array, requires_grad=False):
    """A float64 leaf tensor with a copy of `array`."""
    return torch.tensor(np.asarray(array, np.float64), requires_grad=requires_grad)


def assert_close(actual, expected, tolerance, floor=0.0, name="array"):
    """Checks that differences are at most `tolerance` times the largest expected magnitude, or `floor` if larger."""
    actual, expected = (
        np.asarray(a.detach() if isinstance(a, torch.Tensor) else a, np.float64) for a in (actual, expected)
    )
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape} instead of {expected.shape}"
    assert np.isfinite(actual).all(), f"{name}: not finite"
    scale = max(np.abs(expected).max(initial=0.0), floor)
    error = np.abs(actual - expected).max(initial=0.0)
    assert error <= tolerance * scale, f"{name}: off by {error:.3e}, {tolerance:.0e} of {scale:.3e} allowed"


# Labels


def downsample_labels(labels, size):
    """(B, H, W) -> (B, h*w): the top-left pixel of every block."""
    batch, height, width = labels.shape
    rows, columns = size
    out = np.zeros((batch, rows * columns), labels.dtype)
    for b in range(batch):
        for r in range(rows):
            for c in range(columns):
                out[b, r * columns + c] = labels[b, r * (height // rows), c * (width // columns)]
    return out


def ideal_affinity_map(labels):
    """a_ij = [y_i = y_j]; the ignore label counts as one more class."""
    batch, n = labels.shape
    return np.array([[[float(labels[b, i] == labels[b, j]) for j in range(n)] for i in range(n)] for b in range(batch)])


# Losses


def _minus_log_ratio(numerator, denominator):
    """-log(numerator / denominator): a denominator of 0 becomes 1; the log is clamped at -100, with gradient 0."""
    if denominator == 0:
        denominator = torch.ones_like(denominator)
    if numerator == 0:
        return torch.full_like(numerator, 100.0)
    return -torch.clamp(torch.log(numerator / denominator), min=-100.0)


def affinity_loss(
    logits,
    labels,
    *,
    unary_weight=1.0,
    global_weight=1.0,
    exclude_diagonal=True,
    ignored="class",
    ignore_label=255,
):
    """Terms of the affinity loss of logits (B, N, N) and labels (B, N), image by image and row by row."""
    labels = np.asarray(labels, np.int64)
    unary, precision, recall, specificity = [], [], [], []
    pairs = 0
    for z_image, y_image in zip(logits, labels, strict=True):
        kept = np.flatnonzero(y_image != ignore_label) if ignored == "mask" else np.arange(len(y_image))
        rows = z_image.unbind()
        for i in kept:
            z = rows[i][kept]
            p = torch.sigmoid(z)
            a = torch.tensor(y_image[kept] == y_image[i], dtype=torch.float64)
            off_diagonal = torch.tensor(kept != i, dtype=torch.float64)
            same = a * off_diagonal if exclude_diagonal else a
            unary.append((F.softplus(z, threshold=1e9) - a * z).sum())  # -a log p - (1 - a) log(1 - p)
            pairs += len(kept)
            hits = (same * p).sum()
            precision.append(_minus_log_ratio(hits, p.sum()))
            recall.append(_minus_log_ratio(hits, same.sum()))
            specificity.append(_minus_log_ratio(((1 - a) * (1 - p)).sum(), (1 - a).sum()))
    nothing = 0.0 * logits.sum()
    unary, precision, recall, specificity = (
        torch.stack(rows).sum() / count if count else nothing
        for rows, count in (
            (unary, pairs),
            (precision, len(precision)),
            (recall, len(recall)),
            (specificity, len(specificity)),
        )
    )
    total = unary_weight * unary + global_weight * (precision + recall + specificity)
    return types.SimpleNamespace(total=total, unary=unary, precision=precision, recall=recall, specificity=specificity)


def cross_entropy(logits, labels, ignore_label=255):
    """Mean cross entropy over the labelled pixels of a batch of logits (B, H, W, K); 0 if there are none."""
    picked = []
    for b, r, c in np.argwhere(labels != ignore_label):
        z = logits[b, r, c]
        picked.append(torch.logsumexp(z, 0) - z[int(labels[b, r, c])])
    return torch.stack(picked).mean() if picked else 0.0 * logits.sum()


def upsample(logits, size):
    """Bilinear upsampling with half-pixel centres, (B, h, w, K) -> (B, H, W, K)."""
    return F.interpolate(logits.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)


def upsampled_cross_entropy(logits, labels, ignore_label=255):
    return cross_entropy(upsample(logits, labels.shape[1:]), labels, ignore_label)


def total_loss(output, labels, size, *, aux_weight=0.4, prior_weight=1.0, **options):
    """Total loss and its unweighted terms by name, of logits, aux_logits (B, h, w, K) and prior (B, N, N)."""
    affinity = affinity_loss(output.prior, downsample_labels(labels, size), **options)
    terms = {
        "segmentation": upsampled_cross_entropy(output.logits, labels),
        "aux": upsampled_cross_entropy(output.aux_logits, labels),
    }
    total = terms["segmentation"] + aux_weight * terms["aux"] + prior_weight * affinity.total
    return total, terms | {f"affinity_{name}": getattr(affinity, name) for name in TERMS[1:]}
