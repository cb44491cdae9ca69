"""Trains your own nnx model with the Context Prior Layer, a linen module, and its affinity loss.

python examples/affinity_loss_nnx.py
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cpnet_jax import losses, models


class Network(nnx.Module):
    """Replace the first convolution by your network."""

    def __init__(self, rngs):
        self.backbone = nnx.Conv(3, 16, (8, 8), strides=8, rngs=rngs)
        context = nnx.bridge.ToNNX(models.ContextPrior(prior_size=(8, 8), channels=16), rngs)
        self.context = context.lazy_init(jnp.zeros((1, 8, 8, 16)), train=False)
        self.head = nnx.Conv(48, 3, (1, 1), rngs=rngs)

    def __call__(self, images, train):
        x = nnx.relu(self.backbone(images))
        # In training, the layer updates its batch statistics, which become variables of this model.
        intra, inter, prior = self.context(x, train=train, mutable=["batch_stats"] if train else False)
        return self.head(jnp.concatenate([x, intra, inter], axis=-1)), prior


def loss(network, images, labels):
    logits, prior = network(images, train=True)
    affinity = losses.affinity_loss(prior, losses.downsample_labels(labels, (8, 8))).total
    return losses.upsampled_cross_entropy(logits, labels) + affinity


@nnx.jit
def step(network, optimizer, images, labels):
    value, gradient = nnx.value_and_grad(loss)(network, images, labels)
    optimizer.update(network, gradient)
    return value


images = jax.random.normal(jax.random.key(0), (4, 64, 64, 3)).at[:, :, :32].add(2)  # your images, normalised
labels = jnp.zeros((4, 64, 64), int).at[:, :, :32].set(1).at[:, :32].set(2)  # your label maps; 255 is ignored
network = nnx.jit(Network)(nnx.Rngs(0))
optimizer = nnx.Optimizer(network, optax.adam(1e-2), wrt=nnx.Param)
for index in range(41):
    value = step(network, optimizer, images, labels)
    if index % 20 == 0:
        print(f"step {index:3d}  loss {value:.3f}")
