"""The prior in the page is the network's, in 8 bits; earlier evaluations are kept, few and small."""

import base64
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.evaluation.report import prior as report_prior
from cpnet_jax.evaluation.report.prior import evenly, keep, read_kept, touchable
from cpnet_jax.evaluation.samples import PriorMap
from cpnet_jax.inference.prior_maps import SampledPrior, kept_positions, least_stride, sample_priors
from cpnet_jax.models import PriorFactors


def make_maps(grid=(6, 9), most=10_000, batch=2, per_image=False, ids="ab"):
    """(maps, P in full)"""
    rng, n = np.random.default_rng(0), grid[0] * grid[1]
    own = (batch,) if per_image else ()
    shapes = (batch, n, 4), (*own, 4, n), (*own, n)
    factors = PriorFactors(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes))
    classes = rng.choice([0, 1, 2, 255], (batch, n)).astype(np.uint8)
    images = rng.integers(0, 256, (batch, 8 * grid[0], 8 * grid[1], 3)).astype(np.uint8)
    priors = sample_priors(factors, grid, most, classes)
    maps = [
        PriorMap(id, image, found.reshape(grid), ((0, 0), (2, 3)), prior)
        for id, image, found, prior in zip(ids, images, classes, priors, strict=True)
    ]
    return maps, np.asarray(jax.nn.sigmoid(factors.logits())), classes


def unpacked(values):
    """As template/prior.js unpacks it."""
    side = values["side"]
    changes = np.frombuffer(zlib.decompress(base64.b64decode(values["packed"])), np.uint8).reshape(side, side)
    return np.cumsum(changes, axis=0, dtype=np.uint8)


@pytest.mark.parametrize("per_image", [False, True], ids=["positions", "pairs"])
@pytest.mark.parametrize(("grid", "most"), [((6, 9), 54), ((6, 9), 53), ((7, 5), 8), ((1, 1), 1), ((20, 30), 600)])
def test_what_the_page_unpacks_is_the_prior_at_the_kept_positions(grid, most, per_image):
    maps, whole, classes = make_maps(grid, most, per_image=per_image)
    payload = touchable(maps, CAMVID, 7)
    for image, p, labels in zip(payload["images"], whole, classes, strict=True):
        [frame] = image["frames"]
        rows = [min(r + frame["first"], grid[0] - 1) for r in range(0, grid[0], frame["stride"])]
        columns = [min(c + frame["first"], grid[1] - 1) for c in range(0, grid[1], frame["stride"])]
        kept = [r * grid[1] + c for r in rows for c in columns]
        assert len(kept) <= most and frame["step"] == 7
        np.testing.assert_allclose(unpacked(frame["values"]) / 255, p[np.ix_(kept, kept)], atol=0.5001 / 255)
        assert image["classes"] == labels.tolist()


def test_the_figures_are_those_of_whole_rows_whatever_is_kept():
    maps, whole, classes = make_maps((6, 9), most=7)
    for shown, p, labels in zip(maps, whole.astype(np.float64), classes, strict=True):
        kept = kept_positions((6, 9), shown.prior.stride, shown.prior.first)
        for i, found in zip(kept, shown.prior.figures, strict=True):
            a = labels == labels[i]
            expected = [p[i][a].sum() / p[i].sum(), p[i][a].sum() / a.sum(), (1 - p[i])[~a].sum() / (~a).sum()]
            np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_figure_that_is_not_defined_is_minus_one():
    maps, _, _ = make_maps()
    maps[0].prior.figures[0] = np.nan
    assert touchable(maps, CAMVID, 1)["images"][0]["frames"][0]["figures"][0] == [-1, -1, -1]


@pytest.mark.parametrize("grid", [(60, 60), (64, 64), (96, 96), (7, 33), (1, 5000)])
@pytest.mark.parametrize("most", [1, 256, 1024])
def test_the_stride_is_the_smallest_that_keeps_so_few(grid, most):
    stride = least_stride(grid, most)
    assert len(kept_positions(grid, stride, stride // 2)) <= most
    assert stride == 1 or len(kept_positions(grid, stride - 1, 0)) > most


@pytest.mark.parametrize("grid", [(6, 9), (7, 5), (13, 13)])
def test_a_thinned_prior_is_the_same_at_fewer_positions(grid):
    maps, whole, _ = make_maps(grid, most=40)
    for shown, p in zip(maps, whole, strict=True):
        thin = shown.prior.thinned(12)
        kept = kept_positions(grid, thin.stride, thin.first)
        assert 1 <= len(kept) <= 12 and thin.values.shape == (len(kept),) * 2
        np.testing.assert_allclose(thin.values / 255, p[np.ix_(kept, kept)], atol=0.5001 / 255)
        assert thin.thinned(1).values.shape == (1, 1)


def test_earlier_evaluations_of_the_same_images_are_shown_by_step(tmp_path):
    maps, _, _ = make_maps((20, 20), most=400)
    for step in (10, 20, 30):
        keep(tmp_path, maps, step)
    assert [kept["step"] for kept in read_kept(tmp_path, 30)] == [10, 20]
    others, _, _ = make_maps((20, 20), most=400, ids="bc")
    images = touchable(others, CAMVID, 40, read_kept(tmp_path, 40))["images"]
    assert [[frame["step"] for frame in image["frames"]] for image in images] == [[10, 20, 30, 40], [40]]
    assert [frame["values"]["side"] for frame in images[0]["frames"]] == [100, 100, 100, 400]


def test_a_run_that_goes_back_forgets_the_evaluations_it_takes_again(tmp_path):
    maps, _, _ = make_maps()
    for step in (10, 20, 30, 20):
        keep(tmp_path, maps, step)
    assert [kept["step"] for kept in read_kept(tmp_path, 100)] == [10, 20]


def test_few_evaluations_are_kept_the_first_and_the_newest_among_them(tmp_path):
    kept = []
    for step in range(1, 161):
        kept = evenly([*kept, {"step": step}], 8)
        assert len(kept) <= 8 and kept[0] == {"step": 1} and kept[-1] == {"step": step}
    gaps = np.diff([entry["step"] for entry in kept])
    assert gaps.max() <= 60


def test_priors_of_noise_are_thinned_until_the_page_is_small(tmp_path):
    """Noise does not compress at all."""
    rng = np.random.default_rng(0)

    def noise(side, stride, images=3):
        values = rng.integers(0, 256, (images, side**2, side**2)).astype(np.uint8)
        priors = [SampledPrior((64, 64), stride, 0, found) for found in values]
        image = np.zeros((512, 512, 3), np.uint8)
        return [PriorMap(id, image, None, (), prior) for id, prior in zip("abc", priors, strict=True)]

    for step in range(8):
        keep(tmp_path, noise(16, 4), step)
    payload = touchable(noise(32, 2), CAMVID, 8, read_kept(tmp_path, 8))
    assert 1e6 < len(json.dumps(payload)) < 4.2e6
    assert [[frame["stride"] for frame in image["frames"]] for image in payload["images"]] == [[4] * 8 + [4]] * 3


def changed(whole, path, value):
    """The JSON with one of its values replaced."""
    found = json.loads(json.dumps(whole))
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return found


FRAME = (0, "images", 0, "frame")
BOMB = base64.b64encode(zlib.compress(bytes(10**7))).decode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((0,), 5),
        ((0, "step"), "1"),
        ((0, "images"), None),
        ((0, "images", 0, "id"), 3),
        ((0, "images", 0, "grid"), [6]),
        ((0, "images", 0, "grid"), [10**9, 10**9]),
        ((*FRAME, "stride"), 0),
        ((*FRAME, "stride"), 2),
        ((*FRAME, "first"), 7),
        ((*FRAME, "figures"), [[1]]),
        ((*FRAME, "values", "side"), 10**6),
        ((*FRAME, "values", "packed"), "no base64"),
        ((*FRAME, "values", "packed"), "AAAA"),
        ((*FRAME, "values", "packed"), BOMB),
    ],
)
def test_a_damaged_file_of_earlier_evaluations_is_as_none(tmp_path, path, value):
    maps, _, _ = make_maps()
    keep(tmp_path, maps, 10)
    file = tmp_path / report_prior.NAME
    whole = json.loads(file.read_text())
    assert len(read_kept(tmp_path, 11)) == 1
    file.write_text(json.dumps(changed(whole, path, value)))
    assert read_kept(tmp_path, 11) == []
    file.write_bytes(b"[" * 100_000)
    assert read_kept(tmp_path, 11) == []
