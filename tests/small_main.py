"""main.py with the ResNet-18 of `use_small_backbone`:  python tests/small_main.py FLAGS

The key of stored programs does not hold the blocks of a ResNet, so config.system.compilation_cache has to be `CACHE`.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = f"{os.environ.get('JAX_COMPILATION_CACHE_DIR')}-small"
# Blocks of every stage. Two blocks of up to 128 channels compile in a fraction of the time.
BLOCKS = (1, 1, 0, 0)


def use_small_backbone():
    from cpnet_jax.models import resnet  # imports JAX

    resnet.STAGE_SIZES[18] = BLOCKS


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.argv[0] = "main.py"
    # Most programs run a few times only, so optimising them takes longer than it saves.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    from cpnet_jax.modes import program

    import_jax = program._import_jax

    def import_jax_and_shrink():
        """As late as in main.py, which handles signals before JAX starts threads."""
        import_jax()
        use_small_backbone()

    program._import_jax = import_jax_and_shrink
    program.run()
