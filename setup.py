"""Packages of the wheel; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["cpnet_jax*"]), "cpnet_jax._configs", "cpnet_jax._configs.ablations"],
    # A wheel holds the experiments inside the package: a package called `configs` could belong to any project.
    package_dir={"cpnet_jax._configs": "configs"},
)
