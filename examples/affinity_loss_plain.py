"""Trains plain functions with the affinity loss; it needs features and a map of N x N logits.

python examples/affinity_loss_plain.py
"""

import jax
import optax

from cpnet_jax import losses


def attention_logits(params, features):
    """Replace it by your network; here dot-product attention between the positions of a 16 x 16 feature map."""
    queries, keys = features @ params["query"], features @ params["key"]
    return queries @ keys.swapaxes(1, 2) / queries.shape[-1] ** 0.5


def loss(params, features, labels):
    return losses.affinity_loss(attention_logits(params, features), labels).total


key = jax.random.key(0)
labels = jax.random.randint(key, (4, 128, 128), 0, 3).at[:, :64].set(0)  # your label maps; 255 is ignored
labels = losses.downsample_labels(labels, (16, 16))  # (4, 256)
features = jax.nn.one_hot(labels, 3) @ jax.random.normal(key, (3, 32))  # the features of your backbone
params = {name: 0.1 * jax.random.normal(key, (32, 32)) for name in ("query", "key")}
adam = optax.adam(1e-2)
state = adam.init(params)
step = jax.jit(jax.value_and_grad(loss))
for index in range(101):
    value, gradient = step(params, features, labels)
    updates, state = adam.update(gradient, state)
    params = optax.apply_updates(params, updates)
    if index % 20 == 0:
        print(f"step {index:3d}  affinity loss {value:.3f}")
