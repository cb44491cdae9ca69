"""The same operations written for different platforms: equal results except for rounding, and equal parameters."""

from dataclasses import dataclass
from typing import Literal

# Smallest row count at which CPU matmul reaches full speed.
BLOCK_ROWS = 512


@dataclass(frozen=True)
class Forms:
    """The forms that a network is computed in; the defaults are the plain ones. docs/performance.md has measurements.

    A single convolution or max-pool is not listed here: it picks its form when it is compiled (see `platforms`).

    Attributes:
      space_to_depth_stem: compute the stem on blocks of 4x4 pixels (`space_to_depth`) if both sides are multiples of 4.
      folded_norm: fold a bottleneck's last BatchNorm into its convolution (`folded_norm`) if the images of a device
        fill the tiles of a TPU.
      prior_block_rows: rows of an image's context prior that are computed at a time (`row_blocks`). None computes all
        rows of all images at once, with N x N arrays, as the formulas are written.
      whole_prior_up_to: an image of at most this many positions has all its rows in one block.
      upsampled_loss: form of the losses at full resolution, see `losses.upsampled_cross_entropy`.
      remat: recompute the inside of residual blocks in the backward pass instead of storing it.

    Raises:
      ValueError: if `prior_block_rows` is below 1.
    """

    space_to_depth_stem: bool = False
    folded_norm: bool = False
    prior_block_rows: int | None = BLOCK_ROWS
    whole_prior_up_to: int = 0
    upsampled_loss: Literal["blocks", "windows"] = "blocks"
    remat: bool = False

    def __post_init__(self) -> None:
        if self.prior_block_rows is not None and self.prior_block_rows < 1:
            raise ValueError(f"prior_block_rows is {self.prior_block_rows}: it must be 1 or more, or None")

    @classmethod
    def for_platform(cls, platform: Literal["cpu", "gpu", "tpu"]) -> "Forms":
        """The fastest forms for training on a platform.

        Raises:
          ValueError: if the platform is another one.
        """
        if platform == "cpu":
            return cls()
        if platform == "gpu":
            # Few large products fill a GPU; N x N values of an image of 4096 positions take 67 MB.
            return cls(prior_block_rows=4096, upsampled_loss="windows")
        if platform == "tpu":
            # The logits of 4096 rows and columns still fit a chip's vector memory.
            return cls(True, True, prior_block_rows=1024, whole_prior_up_to=4096)
        raise ValueError(f"platform is {platform!r}: it must be 'cpu', 'gpu' or 'tpu'")

    def block_rows(self, positions: int) -> int | None:
        """Rows in a block of the context prior of an image of N positions; None: all rows of all images at once."""
        if self.prior_block_rows is None:
            return None
        return positions if positions <= self.whole_prior_up_to else self.prior_block_rows
