"""Context modules with the head, compared with `torch_contexts` from the same random start in float64.

Sides are odd, smaller than the finest grid and than the largest dilation, and no window size divides them.
"""

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights

torch = pytest.importorskip("torch", reason="PyTorch is the oracle: pip install torch")

import oracles  # noqa: E402
from parity import torch_contexts, transfer  # noqa: E402

from cpnet_jax.models import CPNet  # noqa: E402
from cpnet_jax.models.contexts import CONTEXTS  # noqa: E402
from cpnet_jax.models.cpnet import Head  # noqa: E402
from cpnet_jax.models.resampling import adaptive_average_pool  # noqa: E402

BATCH, GRID, FAN_IN, CHANNELS, CLASSES = 3, (5, 7), 6, 4, 5
TOLERANCE = 1e-8
# Name -> (our options, theirs, from our paths to their names).
HEADS = {
    "psp": (
        {"pool_sizes": (1, 2, 3, 6)},
        partial(torch_contexts.PSPHead, pool_sizes=(1, 2, 3, 6)),
        ((r"context_module/pool(\d)", r"psp_modules.\1.1"), (r"^head/conv", "bottleneck")),
    ),
    "aspp": (
        {"dilations": (2, 3, 12)},
        partial(torch_contexts.ASPPHead, dilations=(2, 3, 12)),
        (
            (r"context_module/branch(\d)", r"aspp_modules.\1"),
            ("context_module/image_pool", "image_pool.1"),
            (r"^head/conv", "bottleneck"),
        ),
    ),
    "non_local": (
        {},
        torch_contexts.NLHead,
        (
            ("context_module/reduce", "convs.0"),
            ("context_module/conv", "convs.1"),
            (r"context_module/block/out", "nl_block.conv_out"),
            (r"context_module/block/(\w+)", r"nl_block.\1.conv"),
            (r"^head/conv", "conv_cat"),
        ),
    ),
}


class ContextHead(nn.Module):
    """The part of a CPNet without the context prior that follows the backbone."""

    name_of_context: str

    @nn.compact
    def __call__(self, x, *, train):
        options, _, _ = HEADS[self.name_of_context]
        context = CONTEXTS[self.name_of_context](CHANNELS, name="context_module", **options)(x, train=train)
        return context, Head(CHANNELS, CLASSES, dropout=0.0, name="head")(context, train=train)


def as_torch(name, tree):
    """{their name: array with their axes} of our variables."""
    renamed = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        *modules, last = (part.key for part in path)
        module = "/".join(modules).replace("head/classifier", "conv_seg")
        for pattern, replacement in HEADS[name][2]:
            module = re.sub(pattern, replacement, module)
        array = np.asarray(leaf)
        renamed[f"{module.replace('/', '.')}.{transfer.LEAVES[last]}"] = (
            array.transpose(3, 2, 0, 1) if last == "kernel" else array
        )
    return renamed


@pytest.fixture(scope="module", params=sorted(HEADS))
def case(request):
    """(name, ours and theirs: {mode: {what: array or {name: array}}})."""
    name = request.param
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, *GRID, FAN_IN))
    by_logits, by_context = rng.normal(size=(*x.shape[:3], CLASSES)), 0.1 * rng.normal(size=x.shape[:3])
    model = ContextHead(name)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(x.shape), train=False))
    variables = random_weights.draw(shapes)
    arguments = (name, x, variables, by_logits, by_context)
    return name, run_ours(model, *arguments), run_torchs(*arguments)


def run_ours(model, name, x, variables, by_logits, by_context):
    @partial(jax.jit, static_argnames="train", compiler_options={"xla_backend_optimization_level": 0})
    def run(x, params, stats, train):
        def scalar(x, params):
            found, updates = model.apply(
                {"params": params, "batch_stats": stats}, x, train=train, mutable=["batch_stats"]
            )
            context, logits = found
            value = (logits * by_logits).sum() + (context * by_context[..., None]).sum()
            return value, (context, logits, updates["batch_stats"])

        (_, found), gradients = jax.value_and_grad(scalar, argnums=(0, 1), has_aux=True)(x, params)
        return found, gradients

    results = {}
    with jax.enable_x64(True):
        params, stats = (jax.tree.map(np.float64, variables[part]) for part in ("params", "batch_stats"))
        for train in (False, True):
            (context, logits, updates), (by_x, by_params) = run(x, params, stats, train)
            results[train] = {
                "context": context,
                "logits": logits,
                "gradient of x": by_x,
                "gradients": as_torch(name, by_params),
                "statistics": as_torch(name, updates),
            }
    return results


def run_torchs(name, x, variables, by_logits, by_context):
    results = {}
    for train in (False, True):
        head = HEADS[name][1](FAN_IN, CHANNELS, CLASSES).double().train(train)
        values = as_torch(name, variables["params"]) | as_torch(name, variables["batch_stats"])
        missing, unexpected = head.load_state_dict({k: torch.tensor(v) for k, v in values.items()}, strict=False)
        assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing), (missing, unexpected)
        features = oracles.tensor(x, requires_grad=True)
        context, logits = (y.movedim(1, -1) for y in head(features.movedim(-1, 1)))
        value = (logits * oracles.tensor(by_logits)).sum() + (context * oracles.tensor(by_context[..., None])).sum()
        value.backward()
        results[train] = {
            "context": context,
            "logits": logits,
            "gradient of x": features.grad,
            "gradients": transfer.gradients(head),
            "statistics": transfer.statistics(head),
        }
    return results


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("what", ["context", "logits", "gradient of x"])
def test_outputs_and_the_gradient_of_the_features_agree_with_torch(case, what, train):
    name, ours, theirs = case
    oracles.assert_close(ours[train][what], theirs[train][what], TOLERANCE, name=f"{name}, {what}")


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("what", ["gradients", "statistics"])
def test_gradients_of_parameters_and_statistics_agree_with_torch(case, what, train):
    name, ours, theirs = case
    ours, theirs = ours[train][what], theirs[train][what]
    assert ours.keys() == theirs.keys()
    for key, expected in theirs.items():
        # The gradient of a bias in front of a BatchNorm or softmax is rounding only, so its weight sets the scale.
        beside = np.abs(theirs[re.sub(r"bias$", "weight", key)]).max() if what == "gradients" else 0.0
        oracles.assert_close(ours[key], expected, TOLERANCE, floor=beside, name=f"{name}, {key}")


@pytest.mark.parametrize("name", sorted(HEADS))
def test_a_resnet_50s_head_has_as_many_parameters_as_torchs(name):
    model = CPNet(num_classes=150, depth=50, context=CONTEXTS[name], context_prior=False)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)["params"]
    ours = [leaf.shape for part in ("context_module", "head") for leaf in jax.tree.leaves(params[part])]
    maker = getattr(HEADS[name][1], "func", HEADS[name][1])
    with torch.device("meta"):  # shapes alone
        theirs = [parameter.shape for parameter in maker(2048, 512, 150).parameters()]
    assert sorted(map(np.prod, ours)) == sorted(map(np.prod, theirs))


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (3, 6), (6, 6), (7, 9)])
@pytest.mark.parametrize("size", [(7, 6), (5, 11), (1, 2)])
def test_adaptive_pooling_agrees_with_torch_at_any_size(size, grid):
    x = np.random.default_rng(0).normal(size=(2, *size, 3))
    with jax.enable_x64(True):
        ours = adaptive_average_pool(jnp.asarray(x), grid)
    theirs = torch.nn.functional.adaptive_avg_pool2d(oracles.tensor(x).movedim(-1, 1), grid).movedim(1, -1)
    oracles.assert_close(ours, theirs, 1e-14)
