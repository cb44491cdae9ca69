"""Large images are prepared with memory in proportion to one of them."""

import threading

import cv2
import numpy as np

from cpnet_jax.data import large_images
from cpnet_jax.data.builders.look_up import look_up


def png(height, width):
    return cv2.imencode(".png", np.zeros((height, width), np.uint8))[1].tobytes()


def test_only_as_many_pixels_as_allowed_are_in_work(monkeypatch):
    monkeypatch.setattr(large_images, "MOST", 250)
    lock, now, most = threading.Lock(), [0], [0]
    together = threading.Barrier(2)  # pairs of the eight threads work at the same time

    def work(files, pixels):
        with large_images.work_on(*files):
            with lock:
                now[0] += pixels
                most[0] = max(most[0], now[0])
            together.wait(60)
            with lock:
                now[0] -= pixels

    threads = [threading.Thread(target=work, args=([png(10, 10)], 100)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 200


def test_an_image_above_the_limit_is_alone(monkeypatch):
    monkeypatch.setattr(large_images, "MOST", 50)
    with large_images.work_on(png(10, 10)):
        waiting = threading.Thread(target=lambda: large_images.work_on(png(2, 2)).__enter__(), daemon=True)
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
    waiting.join(5)
    assert not waiting.is_alive()
    large_images._in_work = 0


def test_values_of_every_type_are_looked_up_in_bands(monkeypatch):
    monkeypatch.setattr(large_images, "PIXELS_AT_ONCE", 7)
    raw = np.random.default_rng(0).integers(0, 6, (9, 5))
    expected = np.where(raw == 2, 1, np.where(raw == 4, 255, -1))
    for kind in (np.uint8, np.uint16, np.int32, np.int64):
        assert np.array_equal(look_up(raw.astype(kind), {2: 1, 4: 255, -1: 255}), expected)
