"""Trains, evaluates and uses a CPNet. `python main.py --help` lists its modes and flags."""

from cpnet_jax.modes.program import run

if __name__ == "__main__":
    run()
