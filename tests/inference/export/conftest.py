"""Programs for any batch size are traced with a symbolic size, which the checks of shapes cannot compare."""

import jaxtyping
import pytest


@pytest.fixture(scope="module", autouse=True)
def _without_shape_checks():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
