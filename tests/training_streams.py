"""Training streams of small records, and what they yielded."""

import hashlib
from functools import partial

import cv2
import numpy as np

from cpnet_jax.data.augment import augment
from cpnet_jax.data.records import augment_record, decode_record
from cpnet_jax.data.stream import TrainStream

CLASSES = 4
decode4 = partial(decode_record, num_classes=CLASSES, ignore_label=255)


def png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


def make_records(count: int) -> list[dict]:
    """Make records; the image of record i has colour i."""
    label = png(np.zeros((6, 8), np.uint8))
    return [{"id": f"e{i}", "image": png(np.full((6, 8, 3), i, np.uint8)), "label": label} for i in range(count)]


def noted(record: dict, rng: np.random.Generator) -> dict:
    """A transform whose label shows what the rng returned."""
    return {"image": decode4(record)["image"][:1, :1], "label": rng.integers(256, size=(2, 2)).astype(np.uint8)}


def stream(count: int = 7, **settings) -> TrainStream:
    defaults = {"transform": noted, "batch_size": 4, "seed": 0}
    return TrainStream(make_records(count), **{**defaults, **settings})


def flat(batches) -> list[tuple[int, ...]]:
    """Return (record, numbers drawn from its rng) of every example in order."""
    return [
        (int(image[0, 0, 0]), *label.ravel().tolist())
        for batch in batches
        for image, label in zip(batch["image"], batch["label"], strict=True)
    ]


def pictures(count: int = 23) -> list[dict]:
    """Records with JPEGs and PNGs of several sizes."""
    rng = np.random.default_rng(0)
    records = []
    for index in range(count):
        size = 30 + index % 7, 50 - index % 5
        image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        encoded = cv2.imencode((".png", ".jpg")[index % 2], image)[1].tobytes()
        label = rng.integers(0, CLASSES, size).astype(np.uint8)
        records.append({"id": str(index), "image": encoded, "label": png(label)})
    return records


def training(records=None, **settings) -> TrainStream:
    """A stream with every random augmentation; its functions are the package's, so that workers can import them."""
    augmentation = partial(
        augment,
        crop_size=(24, 32),
        scales=(0.5, 1.0, 1.75),
        flip_probability=0.5,
        fill=(124, 116, 104),
        ignore_label=255,
        cat_max_ratio=0.27,
        jitter=True,
    )
    transform = partial(augment_record, num_classes=CLASSES, ignore_label=255, augmentation=augmentation)
    return TrainStream(records or pictures(), transform=transform, batch_size=4, seed=5, **settings)


def digest(batch: dict) -> str:
    return hashlib.sha256(batch["image"].tobytes() + batch["label"].tobytes()).hexdigest()
