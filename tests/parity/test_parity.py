"""The whole network, its objective and its training step, compared with `torch_cpnet` from the same random start.

An error is relative to the largest magnitude of its tensor. The oracle works in float64 whatever it is compared with:
float32's rounding is ours alone. `pytest -s` prints the worst tensor of every comparison.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is the oracle: pip install torch")

import oracles  # noqa: E402
from parity import starts, torch_cpnet, transfer  # noqa: E402
from parity.kinks import NearestKink  # noqa: E402

from cpnet_jax import losses  # noqa: E402
from cpnet_jax.models import CPNet, resnet  # noqa: E402
from cpnet_jax.training.optimizer import poly_schedule, poly_sgd  # noqa: E402
from cpnet_jax.training.state import TrainState  # noqa: E402
from cpnet_jax.training.step import train_step  # noqa: E402

# Rounding to float32 reaches 1e-4 (of a bias before a BatchNorm); a value beyond a kink gives 5e-3.
TOLERANCE = {"float64": 1e-8, "float32": 5e-4}
START = {"float64": starts.anywhere, "float32": starts.away_from_kinks}
# Standard deviations; in float32, the root mean square of rounding is 5e-6 in the worst layer.
FROM_KINKS = {"float64": 1e-10, "float32": 8e-6}
# Not square, and large enough that the last stage's dilation of 4 reaches something. Two images, because torch's
# BatchNorm is wrong for one (on CPUs, backwards, for gradients with the channels last).
BATCH, PRIOR_SIZE, IMAGE_SIZE = 2, (6, 5), (48, 40)
CLASSES, STEPS, TOTAL_STEPS, LR, MOMENTUM, WEIGHT_DECAY = 5, 2, 10, 0.02, 0.9, 1e-4
# `make test-parity` runs the long ones.
CASES = [
    pytest.param((depth, stem, dtype), id=f"R{depth}-{stem}-{dtype}", marks=[] if quick else pytest.mark.long)
    for depth, stem, dtype, quick in (
        (50, "deep", "float64", False),
        (50, "deep", "float32", False),
        (101, "deep", "float64", False),
        (101, "deep", "float32", False),
        (10, "classic", "float64", True),
        (18, "classic", "float64", False),
        (18, "classic", "float32", False),
    )
]


def options(depth, stem):
    """Options of both networks: the whole backbone, narrow heads, no dropout (its masks differ)."""
    head = {"channels": 16, "aux_channels": 8, "dropout": 0.0}
    return {"num_classes": CLASSES, "depth": depth, "prior_size": PRIOR_SIZE, "stem": stem, **head}


def make_batches():
    """Images and labels of every step. A quarter of the pixels is not labelled.

    With most other seeds, a value of a float32 case is too close to a kink for every processor to round it alike.
    """
    rng = np.random.default_rng(16)
    images = rng.normal(size=(STEPS, BATCH, *IMAGE_SIZE, 3)).astype(np.float32)
    labels = rng.integers(0, CLASSES, (STEPS, BATCH, *IMAGE_SIZE))
    labels[:, :, :24, :20] = 255
    return list(zip(images, labels, strict=True))


# Both sides return {quantity: {tensor: array}}, with torch's names and axes.


def run_ours(depth, stem, dtype):
    """Our results. Compiled without optimisation, which would take longer than it saves."""
    compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    model = CPNet(**options(depth, stem))
    schedule = poly_schedule(LR, TOTAL_STEPS)
    # A schedule has the precision of its argument, and an int32 that of a float32.
    tx = poly_sgd(lambda count: schedule(jnp.asarray(count, float)), momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    step = compiled(partial(train_step, model=model, loss=losses.total_loss, tx=tx, normalize=lambda images: images))

    @partial(compiled, static_argnames="train")
    def forward(variables, images, train):
        output, _ = model.apply(variables, images, train=train, mutable=["batch_stats"])
        heads = {"logits": output.logits, "aux_logits": output.aux_logits}
        return {name: x.transpose(0, 3, 1, 2) for name, x in heads.items()} | {"prior": output.prior.logits()}

    results = {}
    with jax.enable_x64(dtype == "float64"):
        variables = jax.tree.map(lambda leaf: leaf.astype(dtype), START[dtype](model, IMAGE_SIZE))
        batches = [{"image": images.astype(dtype), "label": labels} for images, labels in make_batches()]
        for mode in ("evaluation", "training"):
            results[f"outputs in {mode}"] = forward(variables, batches[0]["image"], train=mode == "training")
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            opt_state=compiled(tx.init)(variables["params"]),
            rng=jax.random.key_data(jax.random.key(0)),
            skipped=jnp.zeros((), jnp.int32),
        )
        for number, batch in enumerate(batches, start=1):
            before = transfer.as_torch(state.params, stem)
            state, metrics = step(state, batch)
            trace = next(part.trace for part in state.opt_state if hasattr(part, "trace"))
            momentum = transfer.as_torch(trace, stem)
            if number == 1:  # momentum = 0 + gradient + weight decay
                decayed = {name: value - WEIGHT_DECAY * before[name] for name, value in momentum.items()}
                results["gradients"] = decayed
            not_torchs = {"gradient_norm", "skipped", "clamped_rows"}
            results[f"terms of step {number}"] = {k: v for k, v in metrics.items() if k not in not_torchs}
            results[f"momentum after step {number}"] = momentum
            results[f"parameters after step {number}"] = transfer.as_torch(state.params, stem)
            results[f"statistics after step {number}"] = transfer.as_torch(state.batch_stats, stem)
        assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.batch_stats))} == {jnp.dtype(dtype)}
    return results


def run_torchs(depth, stem, start):
    """(Torch's results, the smallest distance to a kink in training.)"""
    network = torch_cpnet.CPNet(**options(depth, stem)).double()
    variables = start(CPNet(**options(depth, stem)), IMAGE_SIZE)
    transfer.load(network, variables["params"], variables["batch_stats"], stem)
    sgd = torch.optim.SGD(network.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

    def named(output):
        return {name: x.detach().numpy() for name, x in output._asdict().items()}

    results = {}
    batches = [(oracles.tensor(images).permute(0, 3, 1, 2), labels) for images, labels in make_batches()]
    with torch.no_grad():
        results["outputs in evaluation"] = named(network.eval()(batches[0][0]))
    network.train()
    nearest = NearestKink()
    for number, (images, labels) in enumerate(batches, start=1):
        sgd.param_groups[0]["lr"] = LR * (1 - (number - 1) / TOTAL_STEPS) ** 0.9
        sgd.zero_grad()
        with nearest:
            output = network(images)
        loss, terms = oracles.total_loss(channels_last(output), labels, PRIOR_SIZE)
        loss.backward()
        sgd.step()
        if number == 1:
            results["outputs in training"] = named(output)
            results["gradients"] = copied(transfer.gradients(network))
        results[f"terms of step {number}"] = {k: v.detach().numpy() for k, v in ({"loss": loss} | terms).items()}
        momentum = {k: sgd.state[v]["momentum_buffer"].numpy() for k, v in network.named_parameters()}
        results[f"momentum after step {number}"] = copied(momentum)
        results[f"parameters after step {number}"] = copied(transfer.parameters(network))
        results[f"statistics after step {number}"] = copied(transfer.statistics(network))
    return results, nearest.distance


def channels_last(output):
    return output._replace(logits=output.logits.permute(0, 2, 3, 1), aux_logits=output.aux_logits.permute(0, 2, 3, 1))


def copied(arrays):
    """A copy, because torch updates its tensors in place."""
    return {name: array.copy() for name, array in arrays.items()}


QUANTITIES = [f"outputs in {mode}" for mode in ("evaluation", "training")] + ["gradients"]
QUANTITIES += [
    f"{what} step {number}"
    for number in range(1, STEPS + 1)
    for what in ("terms of", "momentum after", "parameters after", "statistics after")
]


@pytest.fixture(scope="module")
def resnet10():
    """A depth of 10, with one block a stage, for both networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.STAGE_SIZES, 10, (1, 1, 1, 1))
        patch.setitem(torch_cpnet.STAGES, 10, (1, 1, 1, 1))
        yield


@pytest.fixture(scope="module", params=CASES)
def case(request, resnet10):
    """(name, our results, torch's, tolerance)."""
    depth, stem, dtype = request.param
    theirs, from_kinks = run_torchs(depth, stem, START[dtype])
    assert from_kinks >= FROM_KINKS[dtype], "rounding can change a gradient: choose another seed of the images"
    return f"R{depth} {dtype}", run_ours(depth, stem, dtype), theirs, TOLERANCE[dtype]


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_every_tensor_agrees_with_torch(case, quantity):
    network, ours, theirs, tolerance = case
    ours, theirs = ours[quantity], theirs[quantity]
    assert ours.keys() == theirs.keys()
    scales = {name: np.abs(array).max() for name, array in theirs.items()}
    if quantity == "gradients" or quantity.startswith("momentum"):
        scales = {name: max(scale, scales[weight_beside(name)]) for name, scale in scales.items()}
    errors = {name: error(ours[name], theirs[name]) / scales[name] for name in theirs}
    worst = max(errors, key=errors.get)
    print(f"\n{network}, {quantity}: {errors[worst]:.1e} in {worst}, of {len(errors)}")
    assert errors[worst] <= tolerance


def error(actual, expected):
    actual = np.asarray(actual, np.float64)
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    return np.abs(actual - expected).max()


def weight_beside(name):
    """The weight of a bias's layer, which sets the scale of the bias's error.

    If a BatchNorm follows and removes the bias, the bias's gradient is zero except for rounding and the image's border.
    """
    return re.sub(r"bias$", "weight", name)
