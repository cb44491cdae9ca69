"""The smallest distance to a kink is found for every layer of the oracle that has kinks."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is the oracle: pip install torch")

from parity.kinks import NearestKink  # noqa: E402

POOL = torch.nn.MaxPool2d(3, 2, padding=1)
CHANNEL = torch.tensor([-7.0, -1.0, 1.0, 7.0]).reshape(1, 1, 2, 2)
DEVIATION = CHANNEL.std().item()


@pytest.mark.parametrize("layer", [torch.relu, torch.nn.ReLU()], ids=["function", "module"])
def test_before_a_relu_the_value_nearest_to_zero_counts(layer):
    with NearestKink() as nearest:
        layer(CHANNEL)
    assert nearest.distance == pytest.approx(1 / DEVIATION)


def test_in_a_pool_the_lead_of_the_largest_value_counts():
    with NearestKink() as nearest:
        POOL(CHANNEL)
    assert nearest.distance == pytest.approx(6 / DEVIATION)


def test_a_window_of_zeros_is_no_tie():
    with NearestKink() as nearest:
        POOL(torch.zeros(1, 1, 2, 2))
    assert nearest.distance == float("inf")
