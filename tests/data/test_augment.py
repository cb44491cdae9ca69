"""Augmentation transforms an image and its label together, and depends on the rng alone."""

from fractions import Fraction
from functools import partial

import cv2
import numpy as np
import pytest

from cpnet_jax.data import augment as augmentation

IGNORED = 255
FILL = (123.675, 116.28, 103.53)
ROUNDED_FILL = (124, 116, 104)
SCALES = (0.5, 0.75, 1.0, 1.5, 1.75, 2.0)
# Colour of each label value; padding has the colour of the ignored label.
COLOURS = np.random.default_rng(7).integers(0, 256, (256, 3)).astype(np.uint8)
COLOURS[IGNORED] = ROUNDED_FILL


def augment(
    image: np.ndarray, label: np.ndarray, rng: np.random.Generator, **settings
) -> tuple[np.ndarray, np.ndarray]:
    """Augment an image that is already decoded."""
    return augmentation.augment(lambda scale: (image, 1), label, rng, **settings)


run = partial(augment, flip_probability=0.5, fill=FILL, ignore_label=IGNORED)


def blocks(height: int, width: int, seed: int = 0, side: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Rectangles of random classes, including void; the image shows the class colours."""
    values = np.random.default_rng(seed).choice([0, 3, 7, 20, IGNORED], (-(-height // side), -(-width // side)))
    label = values.astype(np.uint8).repeat(side, 0).repeat(side, 1)[:height, :width]
    return COLOURS[label], np.ascontiguousarray(label)


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pixel encodes its position: red is the row, green the column, blue and label mix both."""
    rows, columns = np.mgrid[:height, :width]
    label = (7 * rows + 3 * columns) % 200
    return np.stack([rows, columns, label], -1).astype(np.uint8), label.astype(np.uint8)


@pytest.mark.parametrize("seed", range(24))
def test_colours_match_labels_away_from_boundaries(seed):
    image, label = blocks(61, 83, seed)
    image, label = run(image, label, np.random.default_rng(seed), crop_size=(56, 72), scales=SCALES)
    kernel = np.ones((3, 3), np.uint8)
    uniform = cv2.erode(label, kernel) == cv2.dilate(label, kernel)
    uniform[[0, -1]] = uniform[:, [0, -1]] = False  # the part outside the crop may be another class
    assert uniform.mean() > 0.3
    assert np.array_equal(image[uniform], COLOURS[label][uniform])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_label_is_the_nearest_source_pixel_of_the_bilinear_image(scale, flip, axis):
    """On a ramp, both values identify the source pixel; wrong pixel centres shift it by up to 0.86 pixels."""
    position = np.mgrid[:24, :24][axis].astype(np.uint8)
    image, label = augment(
        np.repeat(10 * position[..., None], 3, -1),
        position,
        np.random.default_rng(0),
        crop_size=(round(24 * scale),) * 2,
        scales=[scale],
        flip_probability=flip,
        fill=FILL,
        ignore_label=IGNORED,
    )
    assert len(np.unique(label)) >= min(24, round(24 * scale))
    assert np.abs(image[..., 0] / 10 - label).max() < 0.56


def test_image_and_label_have_the_same_crop_and_every_crop_is_drawn():
    image, label = coordinates(13, 11)
    seen = set()
    for seed in range(400):
        crop, crop_label = run(image, label, np.random.default_rng(seed), crop_size=(10, 8), scales=[1.0])
        top, left = crop[..., 0].min(), crop[..., 1].min()
        box = np.s_[top : top + 10, left : left + 8]
        mirror = -1 if crop[0, 0, 1] > crop[0, 1, 1] else 1
        assert np.array_equal(crop, image[box][:, ::mirror])
        assert np.array_equal(crop_label, label[box][:, ::mirror])
        seen.add((int(top), int(left)))
    assert seen == {(top, left) for top in range(4) for left in range(4)}


@pytest.mark.parametrize("size", [(1, 1), (24, 32), (23, 33), (25, 31), (16, 80), (90, 9), (64, 64)])
@pytest.mark.parametrize("scale", SCALES)
def test_result_has_the_crop_size_whatever_the_image_size(size, scale):
    image, label = blocks(*size)
    image, label = run(image, label, np.random.default_rng(1), crop_size=(24, 32), scales=[scale])
    assert image.shape == (24, 32, 3) and label.shape == (24, 32)
    assert image.dtype == label.dtype == np.uint8
    assert image.flags.c_contiguous and label.flags.c_contiguous


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("size", [(10, 40), (40, 10), (10, 10)])
def test_padding_is_mean_colour_and_ignored_and_covers_only_what_is_missing(size, flip):
    image, label = coordinates(*size)
    image, label = run(image, label, np.random.default_rng(0), crop_size=(20, 24), scales=[1.0], flip_probability=flip)
    padded = label == IGNORED  # `coordinates` holds none
    shown = min(size[0], 20), min(size[1], 24)
    assert (~padded).sum() == shown[0] * shown[1]
    assert np.array_equal((~padded).any(1).nonzero()[0], np.arange(shown[0]))
    assert (~padded).any(0).sum() == shown[1]
    assert (image[padded] == ROUNDED_FILL).all()
    assert np.array_equal(image[~padded][:, 2], label[~padded])


def test_every_scale_of_the_list_and_no_other_is_drawn_about_equally():
    image, label = coordinates(16, 20)
    counts = dict.fromkeys(SCALES, 0)
    for seed in range(600):
        _, result = run(image, label, np.random.default_rng(seed), crop_size=(40, 50), scales=SCALES)
        shown = result != IGNORED
        height, width = shown.any(1).sum(), shown.any(0).sum()
        assert height / 16 == width / 20
        counts[height / 16] += 1  # KeyError: a scale outside the list
    assert set(counts) == set(SCALES)
    assert min(counts.values()) > 60 and max(counts.values()) < 140


@pytest.mark.parametrize(
    ("probability", "low", "high"), [(0.0, 0, 0), (1.0, 1, 1), (0.5, 0.42, 0.58), (0.2, 0.13, 0.27)]
)
def test_flip_has_the_given_probability(probability, low, high):
    image, label = coordinates(8, 8)
    flipped = []
    for seed in range(400):
        result, _ = run(
            image, label, np.random.default_rng(seed), crop_size=(8, 8), scales=[1.0], flip_probability=probability
        )
        flipped.append(result[0, 0, 1] == 7)
    assert low <= np.mean(flipped) <= high


def test_result_depends_on_the_rng_alone():
    image, label = blocks(50, 60)
    results = []
    for global_seed, seed in ((0, 5), (1, 5), (0, 6)):
        np.random.seed(global_seed)  # noqa: NPY002 (this state must not matter)
        results.append(run(image, label, np.random.default_rng(seed), crop_size=(32, 32), scales=SCALES))
    first, again, other = results
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", [(20, 20), (40, 40)])
def test_inputs_are_not_modified(scale, size):
    image, label = coordinates(30, 30)
    copies = image.copy(), label.copy()
    image.flags.writeable = label.flags.writeable = False
    run(image, label, np.random.default_rng(0), crop_size=size, scales=[scale])
    assert np.array_equal(image, copies[0]) and np.array_equal(label, copies[1])


@pytest.mark.parametrize("seed", range(12))
def test_no_new_label_value_appears(seed):
    """Interpolated class indices would be different classes."""
    values = np.array([0, 9, 200], np.uint8)
    label = np.random.default_rng(seed).choice(values, (37, 41))
    _, result = run(COLOURS[label], label, np.random.default_rng(seed), crop_size=(48, 32), scales=SCALES)
    assert set(np.unique(result)) <= {*values, IGNORED}


# --- only the crop is resized -----------------------------------------------------------------------------------------


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("scale", [*SCALES, 1.25, 0.3, 1 / 3, 0.833, 2.37])
@pytest.mark.parametrize("size", [(61, 83), (40, 90), (5, 7)])
def test_crop_of_a_resized_image_equals_the_crop_of_the_whole_resized_image(scale, size):
    image, fraction = noise(*size), Fraction(scale).limit_denominator(1000)
    factor = float(fraction)
    whole = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    scaled = augmentation.scaled_size(size, fraction)
    for seed in range(20):
        box = augmentation.random_crop_box(scaled, (20, 28), np.random.default_rng(seed))
        assert np.array_equal(augmentation.resize_bilinear(image, fraction, box), whole[box])


@pytest.mark.parametrize("scale", SCALES)
def test_crop_of_a_resized_label_equals_the_crop_of_the_whole_resized_label(scale):
    label, fraction = noise(61, 83)[..., 0], Fraction(scale)
    scaled = augmentation.scaled_size(label.shape, fraction)
    whole = augmentation.resize_nearest(label, fraction, (slice(0, scaled[0]), slice(0, scaled[1])))
    for seed in range(10):
        box = augmentation.random_crop_box(scaled, (20, 28), np.random.default_rng(seed))
        assert np.array_equal(augmentation.resize_nearest(label, fraction, box), whole[box])


@pytest.mark.parametrize("scale", [0.5, 0.4, 0.25])
def test_an_image_decoded_at_a_reduced_size_shows_the_same(scale):
    """On a ramp, averaging and subsampling agree up to rounding; an offset by a pixel would be 4 levels."""
    rows, columns = np.mgrid[:60, :62]
    image = np.stack([4 * rows, 4 * columns, 2 * rows + 2 * columns], -1).astype(np.uint8)
    reduced = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    settings = {"crop_size": (12, 14), "scales": [scale], "flip_probability": 0.5, "fill": FILL, "ignore_label": 255}
    asked = []

    def load_reduced(wanted: float) -> tuple[np.ndarray, int]:
        asked.append(wanted)
        return reduced, 2

    label = image[..., 2]
    for seed in range(10):
        whole = augment(image, label, np.random.default_rng(seed), **settings)
        half = augmentation.augment(load_reduced, label, np.random.default_rng(seed), **settings)
        assert np.abs(whole[0].astype(int) - half[0]).max() <= 1
        assert np.array_equal(whole[1], half[1])
    assert asked == [pytest.approx(scale)] * 10


# --- options ----------------------------------------------------------------------------------------------------------


def lopsided() -> tuple[np.ndarray, np.ndarray]:
    """One half shows one class, the other half many; a third of both is void."""
    label = np.full((60, 120), 1, np.uint8)
    label[:, 60:] = np.random.default_rng(0).integers(2, 6, (60, 60))
    label[::3] = IGNORED
    return COLOURS[label], label


def share(label: np.ndarray) -> float:
    counts = np.bincount(label[label != IGNORED])
    return counts.max() / counts.sum()


def test_no_class_exceeds_its_largest_share_of_a_crop():
    image, label = lopsided()
    draws = {"crop_size": (20, 20), "scales": [1.0]}
    shares = {
        limit: [share(run(image, label, np.random.default_rng(i), cat_max_ratio=limit, **draws)[1]) for i in range(150)]
        for limit in (1.0, 0.75)
    }
    assert np.mean(np.array(shares[1.0]) > 0.75) > 0.3
    assert np.mean(np.array(shares[0.75]) > 0.75) < 0.02  # all ten crops are bad with probability 0.4 ** 10
    unchanged = [a for a, b in zip(shares[1.0], shares[0.75], strict=True) if a <= 0.75 and a == b]
    assert len(unchanged) == sum(a <= 0.75 for a in shares[1.0]), "a crop that is good is the first one drawn"


@pytest.mark.parametrize("value", [3, IGNORED])
def test_a_label_without_a_good_crop_is_cropped_anyway(value):
    image, label = noise(40, 40), np.full((40, 40), value, np.uint8)
    _, crop = run(image, label, np.random.default_rng(0), crop_size=(16, 16), scales=[1.0], cat_max_ratio=0.75)
    assert (crop == value).all()


def test_jitter_leaves_geometry_labels_and_padding_alone():
    image, label = coordinates(30, 30)
    changed = 0
    for seed in range(20):
        plain, jittered = (
            run(image, label, np.random.default_rng(seed), crop_size=(40, 24), scales=[1.0], jitter=jitter)
            for jitter in (False, True)
        )
        assert np.array_equal(plain[1], jittered[1])
        assert (jittered[0][jittered[1] == IGNORED] == ROUNDED_FILL).all()
        changed += not np.array_equal(plain[0], jittered[0])
    assert changed >= 15  # each of the four changes has probability 1/2


def jittered(colour: tuple[int, int, int], draws: int = 400) -> np.ndarray:
    image = np.full((1, 1, 3), colour, np.uint8)
    results = [augmentation.photometric_jitter(image, np.random.default_rng(seed))[0, 0] for seed in range(draws)]
    assert (image == colour).all()
    return np.array(results).astype(int)


def test_jitter_moves_grey_within_its_published_bounds():
    grey = jittered((100, 100, 100))
    assert (np.ptp(grey, axis=1) == 0).all(), "grey has neither saturation nor hue"
    levels = grey[:, 0]
    assert 34 <= levels.min() < 60 and 160 < levels.max() <= 198  # (100 - 32) / 2 to (100 + 32) * 1.5
    assert 0.15 < np.mean(levels == 100) < 0.35


def test_jitter_moves_hue_and_saturation_within_their_published_bounds():
    hsv = cv2.cvtColor(jittered((160, 80, 80)).astype(np.uint8)[None], cv2.COLOR_RGB2HSV)[0].astype(int)
    turned = (hsv[:, 0] + 90) % 180 - 90
    bright = hsv[:, 2] > 60  # dark colours have too few levels to measure hue
    assert -20 <= turned[bright].min() < -12 and 12 < turned[bright].max() <= 20
    ratio = hsv[bright, 1] / 128
    assert ratio.min() > 0.35 and ratio.max() > 1.3
    assert 0.3 < np.mean(np.abs(turned) <= 1) < 0.7


@pytest.mark.parametrize("size", [(5, 9), (8, 8), (9, 20), (21, 8), (40, 41)])
def test_the_central_crop_is_the_centre_padded_only_outside_the_image(size):
    rng = np.random.default_rng(0)
    image, label = rng.integers(1, 255, (*size, 3)).astype(np.uint8), rng.integers(0, 9, size).astype(np.uint8)
    shown, shown_label = augmentation.central_crop(image, label, (8, 8), (1.6, 2.0, 3.0), 255)
    assert shown.shape == (8, 8, 3) and shown_label.shape == (8, 8)
    top, left = (max(side - 8, 0) // 2 for side in size)
    height, width = (min(side, 8) for side in size)
    assert np.array_equal(shown[:height, :width], image[top : top + height, left : left + width])
    assert np.array_equal(shown_label[:height, :width], label[top : top + height, left : left + width])
    assert (shown_label[height:] == 255).all() and (shown_label[:, width:] == 255).all()
    assert (shown[height:] == (2, 2, 3)).all() and (shown[:, width:] == (2, 2, 3)).all()
