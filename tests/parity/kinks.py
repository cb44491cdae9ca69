"""How close the values of a torch network come to a kink: a zero before a ReLU, a tie for the largest in a pool.

Beyond a kink the gradient is another one. Two precisions agree on it only if no value is as close to one as rounding.
"""

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class NearestKink(TorchFunctionMode):
    """While active, keeps the smallest distance of any value to a kink, in standard deviations of its channel."""

    def __init__(self):
        super().__init__()
        self.distance = float("inf")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.relu, F.relu):
            self._add(args[0].abs(), args[0])
        elif func is F.max_pool2d:
            self._add(_leads(*args, kwargs["stride"], kwargs["padding"]), args[0])
        return func(*args, **kwargs)

    def _add(self, distances, x):
        relative = distances.detach().flatten(2) / x.detach().std((0, 2, 3)).clamp(min=1e-30)[:, None]
        self.distance = min(self.distance, relative.min().item())


def _leads(x, size, stride, padding):
    """By how much the largest value of each window leads, (B, C, windows), after a ReLU.

    Of a window of zeros, which the ReLU has stopped, it is infinity: no gradient passes either way.
    """
    windows = F.unfold(F.pad(x, (padding,) * 4), size, stride=stride).unflatten(1, (x.shape[1], -1))
    first, second = windows.topk(2, dim=2).values.unbind(2)
    return torch.where(first > 0, first - second, torch.inf)
