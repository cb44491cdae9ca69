"""Trains your own linen model with the Context Prior Layer and its affinity loss.

python examples/affinity_loss_linen.py
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cpnet_jax import losses, models


class Network(nn.Module):
    """Replace the first convolution by your network."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.relu(nn.Conv(16, (8, 8), strides=8)(images))
        intra, inter, prior = models.ContextPrior(prior_size=(8, 8), channels=16, name="context")(x, train=train)
        return nn.Conv(3, (1, 1))(jnp.concatenate([x, intra, inter], axis=-1)), prior


def loss(params, batch_stats, images, labels):
    variables = {"params": params, "batch_stats": batch_stats}
    (logits, prior), updates = network.apply(variables, images, train=True, mutable=["batch_stats"])
    affinity = losses.affinity_loss(prior, losses.downsample_labels(labels, (8, 8))).total
    return losses.upsampled_cross_entropy(logits, labels) + affinity, updates["batch_stats"]


images = jax.random.normal(jax.random.key(0), (4, 64, 64, 3)).at[:, :, :32].add(2)  # your images, normalised
labels = jnp.zeros((4, 64, 64), int).at[:, :, :32].set(1).at[:, :32].set(2)  # your label maps; 255 is ignored
network, adam = Network(), optax.adam(1e-2)
variables = jax.jit(network.init, static_argnames="train")(jax.random.key(1), images, train=False)
params, batch_stats = variables["params"], variables["batch_stats"]
state, step = adam.init(params), jax.jit(jax.value_and_grad(loss, has_aux=True))
for index in range(41):
    (value, batch_stats), gradient = step(params, batch_stats, images, labels)
    updates, state = adam.update(gradient, state)
    params = optax.apply_updates(params, updates)
    if index % 20 == 0:
        print(f"step {index:3d}  loss {value:.3f}")
