"""One process of a run with two:  python two_processes.py INDEX PORT MAIN_FLAGS..."""

import signal
import sys
from pathlib import Path

HEARTBEAT_SECONDS = 10


def join(index: int, port: int) -> None:
    """Connects the processes when main.py looks for devices, with a shorter heartbeat than JAX's 100 seconds."""
    import jax

    from cpnet_jax.runtime import jax_settings

    configure = jax_settings.configure

    def join_and_configure(*arguments):
        jax.config.update("jax_num_cpu_devices", 1)
        jax.distributed.initialize(f"localhost:{port}", 2, index, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
        configure(*arguments)

    jax_settings.configure = join_and_configure


if __name__ == "__main__":
    # As main.py does, before importing JAX starts threads: they inherit the mask.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    _, index, port, *flags = sys.argv
    sys.argv = ["main.py", *flags]
    join(int(index), int(port))
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from small_main import use_small_backbone

    use_small_backbone()
    import main

    main.run()
