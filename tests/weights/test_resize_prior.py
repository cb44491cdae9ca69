"""Resizing the context prior to another crop size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cpnet_jax.models import CPNet
from cpnet_jax.weights.resize_prior import resize_columns, resize_prior

SIZES = [((6, 6), (8, 8)), ((6, 6), (4, 9)), ((4, 5), (9, 3)), ((12, 8), (5, 5)), ((1, 3), (4, 4))]


def columns(picture):
    return picture.reshape(*picture.shape[:-2], -1)


def centres(length, other):
    """Coordinates of a grid's positions, on a grid of another length."""
    return (np.arange(length) + 0.5) * other / length - 0.5


def variables(size, channels=3):
    rng = np.random.default_rng(0)
    n = size[0] * size[1]
    prior = {"kernel": (channels, n), "scale": (n,), "bias": (n,)}
    draw = {name: rng.normal(size=shape).astype(np.float32) for name, shape in prior.items()}
    statistics = {name: rng.uniform(1, 2, n).astype(np.float32) for name in ("mean", "var")}
    head = {"kernel": rng.normal(size=(3, 4)).astype(np.float32)}
    return {"params": {"context": {"prior": draw}, "head": head}, "batch_stats": {"context": {"prior": statistics}}}


def test_the_same_size_changes_no_bit():
    before = variables((4, 5))
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, resize_prior(before, (4, 5), (4, 5)), before))


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_constant_columns_stay_constant(old, new):
    resized = resize_columns(np.full((2, old[0] * old[1]), 3.25, np.float32), old, new)
    np.testing.assert_allclose(resized, np.full((2, new[0] * new[1]), 3.25), rtol=1e-6)


@pytest.mark.parametrize(("old", "new"), [((6, 6), (8, 8)), ((60, 60), (64, 64)), ((64, 64), (96, 80))])
def test_linear_columns_stay_linear_up_to_the_outermost_centres(old, new):
    y, x = np.mgrid[: old[0], : old[1]].astype(np.float32)
    resized = np.asarray(resize_columns(columns(2 * y - 3 * x + 1), old, new)).reshape(new)
    there_y = np.clip(centres(new[0], old[0]), 0, old[0] - 1)
    there_x = np.clip(centres(new[1], old[1]), 0, old[1] - 1)
    np.testing.assert_allclose(resized, 2 * there_y[:, None] - 3 * there_x + 1, atol=1e-3)


def test_growing_is_torchs_bilinear_interpolation_and_shrinking_its_antialiased_one():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for old, new in SIZES:
        picture = rng.normal(size=(2, *old)).astype(np.float32)
        options = {"mode": "bilinear", "align_corners": False, "antialias": True}
        expected = torch.nn.functional.interpolate(torch.tensor(picture)[None], size=new, **options)[0].numpy()
        np.testing.assert_allclose(resize_columns(columns(picture), old, new), columns(expected), atol=1e-5)


def test_shrinking_uses_every_old_column():
    old, new = (9, 9), (3, 3)
    reached = np.asarray(resize_columns(np.eye(81, dtype=np.float32), old, new)).sum(axis=1)
    assert reached.min() > 0


def with_statistics_of(features, kernel):
    """Variables of a prior whose running statistics are exactly those of the features."""
    n, response = kernel.shape[1], features @ kernel
    statistics = {"mean": response.mean(0).astype(np.float32), "var": response.var(0).astype(np.float32)}
    params = {"kernel": kernel, "scale": np.ones(n, np.float32), "bias": np.zeros(n, np.float32)}
    return {"params": {"context": {"prior": params}}, "batch_stats": {"context": {"prior": statistics}}}


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_running_statistics_are_exact_for_uncorrelated_features(old, new):
    """The mean is exact for all features, the variance for uncorrelated ones."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(4, old[0] * old[1])).astype(np.float32)
    skewed = rng.normal(1, 2, (500, 4)) * [1, 5, 0.1, 2]
    centred = skewed - skewed.mean(0)
    white = centred @ np.linalg.inv(np.linalg.cholesky(np.cov(centred.T, bias=True))).T + rng.normal(size=4)
    for features in (skewed, white):
        resized = resize_prior(with_statistics_of(features, kernel), old, new)
        response = features @ np.asarray(resized["params"]["context"]["prior"]["kernel"])
        found = resized["batch_stats"]["context"]["prior"]
        np.testing.assert_allclose(found["mean"], response.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["var"], response.var(0), rtol=1e-4)


def test_the_running_variance_is_exact_if_all_columns_agree():
    features = np.random.default_rng(0).normal(size=(100, 3)) * [1, 5, 0.1]
    kernel = np.repeat(np.float32([[1], [-2], [3]]), 20, axis=1)
    resized = resize_prior(with_statistics_of(features, kernel), (4, 5), (7, 3))
    found = resized["batch_stats"]["context"]["prior"]["var"]
    np.testing.assert_allclose(found, np.full(21, (features @ kernel).var(0)[0]), rtol=1e-5)


def test_columns_of_zeros_have_no_variance():
    resized = resize_prior(with_statistics_of(np.ones((5, 3)), np.zeros((3, 4), np.float32)), (2, 2), (3, 3))
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(resized["batch_stats"]))


def test_only_the_prior_changes_and_the_result_fits_the_network(small_backbone):
    like = variables((2, 3))
    resized = resize_prior(like, (2, 3), (3, 3))
    assert resized["params"]["head"] is like["params"]["head"]
    assert {leaf.shape[-1] for leaf in jax.tree.leaves([resized[name]["context"] for name in resized])} == {9}

    def init(size):
        model = CPNet(num_classes=3, depth=18, prior_size=size, channels=8, aux_channels=0)
        return jax.eval_shape(
            lambda: model.init(jax.random.key(0), jnp.zeros((1, 8 * size[0], 8 * size[1], 3)), train=False)
        )

    small, large = init((2, 3)), init((4, 3))
    resized = jax.eval_shape(lambda tree: resize_prior(tree, (2, 3), (4, 3)), small)
    assert jax.tree.map(lambda x: x.shape, resized) == jax.tree.map(lambda x: x.shape, large)


def test_a_network_without_a_prior_is_unchanged():
    plain = {"params": {"head": {"kernel": np.ones(3)}}, "batch_stats": {}}
    assert resize_prior(plain, (2, 2), (3, 3)) == plain


def test_columns_that_do_not_form_the_grid_are_refused():
    with pytest.raises(ValueError, match="30 columns are not a grid of 5x5"):
        resize_columns(np.ones((2, 30)), (5, 5), (6, 6))
