"""Translates linen's names and axes to those of `torch_cpnet`."""

import re

import jax
import numpy as np
import torch

# (pattern, replacement), applied in order to a path without its last part.
RENAMES = (
    # Backbone
    (r"\bstem1/conv", "stem.0"),
    (r"\bstem1/bn", "stem.1"),
    (r"\bstem2/conv", "stem.3"),
    (r"\bstem2/bn", "stem.4"),
    (r"\bstem3/conv", "stem.6"),
    (r"\bstem3/bn", "stem.7"),
    (r"\blayer(\d)_(\d+)", r"layer\1.\2"),
    (r"\bconv(\d)/conv", r"conv\1"),
    (r"\bconv(\d)/bn", r"bn\1"),
    (r"\bdownsample/conv", "downsample.0"),
    (r"\bdownsample/bn", "downsample.1"),
    # Heads
    (r"\baggregation/bn", "aggregation.norm"),
    (r"\breduce\b", "reduce_conv"),
    (r"\bcolumn_row/column", "t1.conv"),
    (r"\bcolumn_row/row", "t2.conv"),
    (r"\brow_column/row", "p1.conv"),
    (r"\brow_column/column", "p2.conv"),
    (r"\b(intra|inter)\b", r"\1_conv"),
    (r"^context\b", "decode_head"),
    (r"^head/conv\b", "decode_head.bottleneck"),
    (r"^aux_head/conv\b", "auxiliary_head.convs.0"),
    (r"^head\b", "decode_head"),
    (r"^aux_head\b", "auxiliary_head"),
    (r"\bclassifier", "conv_seg"),
    ("/", "."),
)
CLASSIC_STEM = ((r"\bstem1/conv", "conv1"), (r"\bstem1/bn", "bn1"))
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def load(module, params, batch_stats, stem="deep"):
    """Loads all values into a torch module; fails if a value is missing or left over."""
    values = as_torch(params, stem) | as_torch(batch_stats, stem)
    missing, unexpected = module.load_state_dict({k: torch.tensor(v) for k, v in values.items()}, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    assert not missing and not unexpected, (missing, unexpected)


def parameters(module):
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def gradients(module):
    return {name: parameter.grad.numpy() for name, parameter in module.named_parameters()}


def statistics(module):
    return {name: buffer.numpy() for name, buffer in module.named_buffers() if "running" in name}


def as_torch(tree, stem="deep"):
    """{name in torch: array with torch's axes} of a linen tree: parameters, their gradients, or statistics."""
    rules = RENAMES if stem == "deep" else CLASSIC_STEM + RENAMES
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        *modules, last = (part.key for part in path)
        if modules[-1] == "prior":
            modules.append("conv" if last == "kernel" else "bn")
        name = "/".join(modules).replace("prior", "prior_conv")
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        arrays[f"{name}.{LEAVES[last]}"] = _transposed(np.asarray(leaf)) if last == "kernel" else np.asarray(leaf)
    return arrays


def _transposed(kernel):
    """(kh, kw, in, out) -> (out, in, kh, kw); the prior's (in, out) is a 1x1 convolution's."""
    if kernel.ndim == 2:
        kernel = kernel[None, None]
    return kernel.transpose(3, 2, 0, 1)
