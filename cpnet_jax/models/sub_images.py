"""Images as batches of interleaved sub-images, in which a dilated convolution is an ordinary one.

A convolution of dilation d never mixes positions whose rows, or columns, differ modulo d. So it does to an image what
the ordinary one does to each of the d x d images that hold every d-th position of every d-th row, zeros beyond the
borders included. 1x1 convolutions, sums and BatchNorm do not care how positions are arranged. What it is good for: TPUs
fill their tiles with the images of a batch, of which a small batch has too few.
"""

from jaxtyping import Array, Float


def rearrange(
    x: Float[Array, "b*parts*parts h/parts w/parts c"], parts: int, wanted: int
) -> tuple[Float[Array, "b*parts2*parts2 h/parts2 w/parts2 c"], int]:
    """Images in parts x parts sub-images each -> (the same in `wanted` x `wanted`, `wanted`).

    Sub-images follow each other in the batch, so devices that share it have nothing to exchange. Their order is that of
    one halving after the other, not that of the image's rows; only this module has to know it.

    Args:
      parts, wanted: powers of two.

    Returns:
      (x, number of parts): fewer than wanted where the sides do not divide into as many.
    """
    while parts > wanted:
        x, parts = _merge(x), parts // 2
    while parts < wanted and x.shape[1] % 2 == x.shape[2] % 2 == 0:
        x, parts = _split(x), parts * 2
    return x, parts


def _split(x: Float[Array, "b h w c"]) -> Float[Array, "4*b h/2 w/2 c"]:
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 2, 4, 1, 3, 5).reshape(4 * b, h // 2, w // 2, c)


def _merge(x: Float[Array, "4*b h/2 w/2 c"]) -> Float[Array, "b h w c"]:
    b, h, w, c = x.shape
    return x.reshape(b // 4, 2, 2, h, w, c).transpose(0, 3, 1, 4, 2, 5).reshape(b // 4, 2 * h, 2 * w, c)
