"""The search for the most images that fit."""

from dataclasses import replace

import pytest

from cpnet_jax.plan.compiler import Compiled
from cpnet_jax.plan.largest import largest_fitting

STEP = Compiled(1, 1, {}, 0, [], [], None, None, None, 1.0)


def chip(room, fixed, by_image):
    """A fake compiler for a chip with this much memory, and the list of images it was called with."""
    asked = []

    def compile_step(images):
        asked.append(images)
        total = fixed + by_image(images)
        if total > room:
            return replace(STEP, images=images, needed=total)
        memory = {"argument": fixed, "output": 0, "alias": 0, "temp": by_image(images), "generated_code": 0}
        return replace(STEP, images=images, memory=memory)

    return compile_step, asked


@pytest.mark.parametrize("start", [[1], [2, 4], [8], [64], [1, 2, 64]])
@pytest.mark.parametrize("by_image", [lambda n: 7 * n, lambda n: 5 * n + n * n // 20, lambda n: 7 * n + 20 * (n % 2)])
def test_the_most_that_fit_are_found_in_a_few_steps(start, by_image):
    compile_step, asked = chip(100, 10, by_image)
    known = {images: compile_step(images) for images in start}
    asked.clear()
    found = largest_fitting(compile_step, known, room=100)
    assert known[found].fits and not known[found + 1].fits
    assert len(asked) <= 6 and len(set(asked)) == len(asked)


def test_the_result_is_0_if_one_image_does_not_fit():
    compile_step, _ = chip(100, 90, lambda n: 20 * n)
    assert largest_fitting(compile_step, {2: compile_step(2)}, room=100) == 0


def test_only_multiples_of_the_unit_are_tried():
    compile_step, asked = chip(100, 10, lambda n: 7 * n)
    assert largest_fitting(compile_step, {3: compile_step(3)}, room=100, unit=3) == 12
    assert all(images % 3 == 0 for images in asked)
