"""The reference implementation equals PyTorch and cases computed by hand."""

import numpy as np
import pytest
from inference import reference

CROP = (16, 24)
MEAN = (123.675, 116.28, 103.53)


@pytest.mark.parametrize(
    ("size", "new_size"),
    [((3, 4), (24, 32)), ((24, 32), (13, 57)), ((1, 1), (5, 3)), ((7, 200), (1, 1)), ((40, 9), (40, 9))],
)
def test_resize_is_torchs_bilinear_interpolation(size, new_size):
    torch = pytest.importorskip("torch")
    picture = np.random.default_rng(0).normal(size=(*size, 5))
    theirs = torch.nn.functional.interpolate(
        torch.tensor(picture).permute(2, 0, 1)[None], new_size, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(reference.resize(picture, new_size), theirs[0].permute(1, 2, 0).numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("size", "crop", "expected"),
    [
        (480, 480, [0]),
        (481, 480, [0, 1]),
        (800, 480, [0, 320]),
        (801, 480, [0, 320, 321]),
        (683, 512, [0, 171]),
        (5, 1, [0, 1, 2, 3, 4]),
    ],
)
def test_starts_of_known_cases(size, crop, expected):
    assert reference.starts(size, crop) == expected


def brightness(window):
    """A network of two classes, "darker" and "brighter", constant over the window."""
    sign = 1.0 if window[..., 0].mean() > 128 else -1.0
    return np.broadcast_to(np.array([-sign, sign]) * 40.0, (window.shape[0] // 8, window.shape[1] // 8, 2))


def seen_by(network, image, **protocol):
    """The windows that the network receives, and the scores."""
    windows = []

    def watched(window):
        windows.append(window.copy())
        return network(window)

    return windows, reference.scores(image, watched, crop=CROP, mean=MEAN, **protocol)


def test_an_image_smaller_than_the_crop_is_padded_with_the_mean_at_the_bottom_and_the_right():
    image = np.full((10, 20, 3), 200, np.uint8)
    [window], found = seen_by(brightness, image)
    assert window.shape == (*CROP, 3)
    assert (window[:10, :20] == 200).all()
    assert (window[10:] == (124, 116, 104)).all() and (window[:, 20:] == (124, 116, 104)).all()
    assert found.shape == (10, 20, 2)


@pytest.mark.parametrize(("overlap", "twice"), [("sum", 2.0), ("average", 1.0)])
def test_scores_of_overlapping_windows_are_added_or_averaged(overlap, twice):
    image = np.zeros((16, 40, 3), np.uint8)  # windows at columns 0 and 16: pixels 16 .. 23 are seen twice
    windows, found = seen_by(brightness, image, overlap=overlap)
    assert len(windows) == 2
    expected = np.ones((16, 40))
    expected[:, 16:24] = twice
    np.testing.assert_allclose(found[:, :, 0], expected)


def test_averaged_logits_are_those_of_mmsegmentation():
    """Its slide_inference and aug_test, in torch: the image is scaled, then mirrored, then cut into windows."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (21, 61, 3)).astype(np.uint8)
    kernel = rng.normal(0, 0.1, (5, 3, 8, 8))
    places = rng.normal(0, 1, (5, CROP[0] // 8, CROP[1] // 8))

    def logits(windows):
        return torch.nn.functional.conv2d(windows, torch.tensor(kernel), stride=8) + torch.tensor(places)

    def network(window):
        tensor = torch.tensor(window.transpose(2, 0, 1).copy(), dtype=torch.float64)[None]
        return logits(tensor)[0].permute(1, 2, 0).numpy()

    def slide(images):
        (height, width), stride = images.shape[2:], [side * 2 // 3 for side in CROP]
        total, count = torch.zeros(1, 5, height, width, dtype=torch.float64), torch.zeros(1, 1, height, width)
        for row in range(max(height - CROP[0] + stride[0] - 1, 0) // stride[0] + 1):
            for column in range(max(width - CROP[1] + stride[1] - 1, 0) // stride[1] + 1):
                bottom = min(row * stride[0] + CROP[0], height)
                right = min(column * stride[1] + CROP[1], width)
                place = np.s_[:, :, bottom - CROP[0] : bottom, right - CROP[1] : right]
                total[place] += torch.nn.functional.interpolate(logits(images[place]), CROP, mode="bilinear")
                count[place] += 1
        return total / count

    expected = 0
    for scale in (1.0, 1.5):
        scaled = torch.tensor(reference.scaled_image(image, scale).transpose(2, 0, 1), dtype=torch.float64)[None]
        for flips in ([], [3]):
            found = slide(scaled.flip(flips)).flip(flips)
            expected += torch.nn.functional.interpolate(found, image.shape[:2], mode="bilinear").softmax(dim=1)
    options = {"crop": CROP, "mean": MEAN, "scales": (1.0, 1.5), "flip": True, "overlap": "average_logits"}
    found = reference.scores(image, network, **options)
    np.testing.assert_allclose(found, expected[0].permute(1, 2, 0).numpy(), atol=1e-9)


def test_with_flip_each_window_is_also_predicted_mirrored():
    def left_half(window):
        logits = np.zeros((2, 3, 2))
        logits[:, 0, 1] = 50.0  # class 1 in the left cells, whatever is shown
        return logits

    image = np.arange(16 * 24 * 3).reshape(16, 24, 3).astype(np.uint8)
    [shown, mirrored], found = seen_by(left_half, image, flip=True)
    assert np.array_equal(shown, image) and np.array_equal(mirrored, image[:, ::-1])
    assert (found[:, :4, 1] > 1.4).all() and (found[:, -4:, 1] > 1.4).all()
    np.testing.assert_allclose(found.sum(axis=-1), 2.0)
    np.testing.assert_allclose(found, found[:, ::-1])


def test_scales_round_half_up_and_their_scores_are_added():
    image = np.full((31, 45, 3), 9, np.uint8)
    assert [reference.scaled_image(image, scale).shape[:2] for scale in (0.5, 1.0, 1.5, 0.001)] == [
        (16, 23),
        (31, 45),
        (47, 68),
        (1, 1),
    ]
    _, found = seen_by(brightness, image, scales=(0.5, 1.0), overlap="average")
    np.testing.assert_allclose(found.sum(axis=-1), 2.0)
    assert reference.classes(found).max() == 0
    np.testing.assert_allclose(reference.probabilities(found).sum(axis=-1), 1.0)


def test_the_first_of_equal_classes_wins():
    assert reference.classes(np.ones((2, 3, 4))).tolist() == [[0, 0, 0]] * 2
