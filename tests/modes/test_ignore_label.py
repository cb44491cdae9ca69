"""Training refuses a dataset whose ignore label the losses would take for a class."""

from dataclasses import replace

import pytest

from cpnet_jax.data.catalog import CAMVID
from cpnet_jax.errors import UserError
from cpnet_jax.modes.experiment import check_ignore_label


def test_another_ignore_label_than_that_of_the_losses_is_refused():
    check_ignore_label(CAMVID)
    with pytest.raises(UserError, match="camvid has the ignore_label 200: training needs 255"):
        check_ignore_label(replace(CAMVID, ignore_label=200))
