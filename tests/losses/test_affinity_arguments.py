"""Labels and arguments of the affinity loss, and the largest array that it forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import oracles  # noqa: E402
from small_priors import KINDS, build, make_labels, make_prior  # noqa: E402

from cpnet_jax import losses, models  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_ideal_affinity_map_is_one_where_labels_agree(dtype):
    labels = make_labels()
    with jax.enable_x64(dtype == "float64"):
        affinity = losses.ideal_affinity_map(jnp.asarray(labels))
    assert affinity.shape == (4, 16, 16) and jnp.issubdtype(affinity.dtype, jnp.floating)
    np.testing.assert_array_equal(affinity, oracles.ideal_affinity_map(labels))


@pytest.mark.parametrize("label_dtype", [np.int32, np.uint8])
@pytest.mark.parametrize("grid, size", [((6, 8), (3, 2)), ((16, 24), (2, 3)), ((5, 7), (5, 7)), ((4, 4), (1, 1))])
def test_downsampling_takes_the_top_left_pixel_of_every_cell(grid, size, label_dtype):
    labels = np.random.default_rng(4).integers(0, 256, (2, *grid)).astype(label_dtype)
    out = jax.jit(losses.downsample_labels, static_argnums=1)(labels, size)
    assert jnp.issubdtype(out.dtype, jnp.integer)
    np.testing.assert_array_equal(out, oracles.downsample_labels(labels, size))


@pytest.mark.parametrize("size", [(4, 4), (3, 3), (16, 16), (0, 4)])
def test_label_grid_that_does_not_divide_is_refused(size):
    with pytest.raises(ValueError):
        losses.downsample_labels(np.zeros((1, 8, 10), np.int32), size)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ignored", ["other", None, ""])
def test_unknown_treatment_of_ignored_pixels_is_refused(kind, ignored):
    with pytest.raises(ValueError, match=r"class.*mask|mask.*class"):
        losses.affinity_loss(build(make_prior(kind, "float32")), make_labels(), ignored=ignored)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("labels_shape", [(4, 15), (3, 16), (1, 16), (4, 1), (16,), (4, 4, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_do_not_match_the_prior_are_refused_naming_both_shapes(kind, labels_shape):
    arrays = make_prior(kind, "float32")
    with pytest.raises(ValueError) as error:
        losses.affinity_loss(build(arrays), np.zeros(labels_shape, np.int32))
    assert str(labels_shape) in str(error.value)
    assert "(4, 16, " in str(error.value)  # of the logits or of the features


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("shape", [(2, 5, 6), (2, 6, 5), (2, 1, 6), (6, 6)])
def test_logits_that_are_not_square_are_refused(shape):
    with pytest.raises(ValueError):
        losses.affinity_loss(np.zeros(shape, np.float32), np.zeros((2, 6), np.int32))


def test_factors_with_another_number_of_channels_than_positions_are_refused():
    prior = models.PriorFactors(jnp.ones((2, 6, 4)), jnp.ones((4, 5)), jnp.ones(5))
    with pytest.raises(ValueError):
        losses.affinity_loss(prior, np.zeros((2, 6), np.int32))


def largest_array(jaxpr):
    """Size of the largest array that any equation of the program (or of one inside it) produces."""
    largest = 0
    for equation in jaxpr.eqns:
        largest = max([largest, *(var.aval.size for var in equation.outvars if hasattr(var.aval, "size"))])
        inner = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns"))
        for leaf in inner:
            leaf = getattr(leaf, "jaxpr", leaf)
            if hasattr(leaf, "eqns"):
                largest = max(largest, largest_array(leaf))
    return largest


@pytest.mark.parametrize("ignored", ["class", "mask"])
def test_loss_of_factors_never_forms_an_array_of_all_pairs(ignored):
    n, channels = 9216, 8

    def loss(arrays, labels):
        prior = models.PriorFactors(*arrays)
        intra, inter = prior.contexts(arrays[0])
        return losses.affinity_loss(prior, labels, ignored=ignored).total + intra.sum() + (inter**2).sum()

    arrays = tuple(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, n, channels), (channels, n), (n,)))
    program = jax.make_jaxpr(jax.value_and_grad(loss))(arrays, jax.ShapeDtypeStruct((1, n), jnp.int32))
    largest = largest_array(program.jaxpr)
    assert n * channels <= largest <= n * n // 4
