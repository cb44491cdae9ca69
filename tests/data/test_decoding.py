"""A record is decoded to an RGB image and a label of indices, or refused by its name."""

from functools import partial
from itertools import islice

import numpy as np
import pytest
from PIL import Image
from training_streams import CLASSES, decode4, make_records, noted, png

from cpnet_jax.data.records import augment_record
from cpnet_jax.data.stream import TrainStream, examples
from cpnet_jax.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 9, 3)).astype(np.uint8)
LABEL = np.random.default_rng(1).choice(np.array([0, 1, 2, 3, 255], np.uint8), (5, 9))


def record(**changes) -> dict:
    return {"id": b"town_017", "image": png(IMAGE[..., ::-1]), "label": png(LABEL), **changes}


def one_value(value: int) -> bytes:
    label = np.zeros((5, 9), np.uint8)
    label[3, 4] = value
    return png(label)


def test_decode_record_returns_rgb_image_and_label_indices():
    example = decode4(record())
    assert example["id"] == "town_017"
    assert np.array_equal(example["image"], IMAGE) and example["image"].dtype == np.uint8
    assert np.array_equal(example["label"], LABEL) and example["label"].dtype == np.uint8
    assert decode4(record(id="as_text"))["id"] == "as_text"


def test_grey_images_become_three_channels():
    image = decode4(record(image=png(IMAGE[..., 0])))["image"]
    assert np.array_equal(image, IMAGE[..., :1].repeat(3, -1))


def test_exif_orientation_does_not_turn_the_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees", although the label was made for the stored pixels
    Image.fromarray(IMAGE).save(tmp_path / "turned.jpg", exif=exif)
    assert decode4(record(image=(tmp_path / "turned.jpg").read_bytes()))["image"].shape == IMAGE.shape


def test_a_palette_label_never_becomes_colours(tmp_path):
    """A palette PNG is read as its indices or refused."""
    picture = Image.fromarray(LABEL)
    picture.putpalette(np.random.default_rng(2).integers(0, 256, 768).astype(np.uint8).tobytes())
    assert picture.mode == "P"
    picture.save(tmp_path / "palette.png")
    try:
        label = decode4(record(label=(tmp_path / "palette.png").read_bytes()))["label"]
    except UserError as error:
        assert "town_017" in str(error)
    else:
        assert np.array_equal(label, LABEL)


BAD = {
    "image is not an image": {"image": b"not an image"},
    "image is empty": {"image": b""},
    "image is cut off": {"image": png(IMAGE)[:60]},
    "label is not an image": {"label": b"not an image"},
    "label is empty": {"label": b""},
    "label of another size": {"label": png(LABEL[:4])},
    "label turned": {"label": png(np.ascontiguousarray(LABEL.T))},
    "label of three channels": {"label": png(LABEL[..., None].repeat(3, -1))},
    "label equal to the number of classes": {"label": one_value(CLASSES)},
    "label 254": {"label": one_value(254)},
    "label 300": {"label": png(np.full((5, 9), 300, np.uint16))},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_decode_record_refuses_a_faulty_example_by_name(changes):
    with pytest.raises(UserError, match="town_017") as caught:
        decode4(record(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("threads", [0, 2])
def test_a_bad_record_in_a_thread_raises_user_error(threads):
    """The decoding threads do not wrap the exception."""
    records = make_records(5)
    records[3]["label"] = one_value(9)
    with pytest.raises(UserError, match="e3"):
        settings = {"transform": noted, "batch_size": 1, "seed": 0, "threads": threads}
        list(islice(TrainStream(records, **settings), 5))
    with pytest.raises(UserError, match="e3"):
        list(examples(records, decode=decode4, threads=threads))


def test_a_bad_record_in_a_worker_raises_user_error():
    bad = [{**make_records(1)[0], "id": "e3", "label": one_value(9)}]
    transform = partial(augment_record, num_classes=CLASSES, ignore_label=255, augmentation=None)
    with (
        TrainStream(bad, transform=transform, batch_size=1, seed=0, workers=1) as batches,
        pytest.raises(UserError, match="e3"),
    ):
        next(batches)
