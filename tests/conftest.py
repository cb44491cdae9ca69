"""Eight virtual CPU devices, so that what runs on a pod is tested on a laptop."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

jax.config.update("jax_num_cpu_devices", 8)
