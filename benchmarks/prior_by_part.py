"""Measures where the context prior looks in pictures of several places (dataset `scenes_places`).

    python benchmarks/prior_by_part.py --workdir=DIR [--pictures=200]

DIR is a run on `scenes_places`. Shown are means of P_ij over positions i of a class whose look-alike is in another part
of the picture, and over positions j of different kinds: of the same class in the same part, of what tells it from its
look-alike, and of the rest. A prior that selects the part is larger on the rest of this part than on other parts.
Prints one table and one JSON line.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from cpnet_jax import losses, sharding
from cpnet_jax.config import build
from cpnet_jax.data import scenes
from cpnet_jax.data.builders.scenes import SEEDS
from cpnet_jax.data.scenes.places import COAST_PAIR, ROOM_PAIR
from cpnet_jax.errors import UserError
from cpnet_jax.inference.load import Restored, restore
from cpnet_jax.inference.network import compiled_network
from cpnet_jax.runtime import exit_status

KINDS = ("same class, its part", "what tells it", "rest of its part", "look-alike", "what tells that", "other parts")
# Class -> (what tells it, its look-alike, what tells that one).
HARD = {
    one: (cue, other, other_cue)
    for pair in (COAST_PAIR, ROOM_PAIR)
    for (one, cue, _), (other, other_cue, _) in (pair, pair[::-1])
}
BATCH = 20
# Positions of a class in a part below which it does not count: a sliver at a border.
LEAST = 4


def pictures(indices: range) -> tuple[UInt8[np.ndarray, "b h w 3"], Int[Array, "b h w"], Int[Array, "b h w"]]:
    """Images of the validation split, their labels, and the number of the part that each pixel belongs to."""
    seed = SEEDS["val"]
    images, labels = zip(*(scenes.render_places(seed, index) for index in indices), strict=True)
    parts = [scenes.number_parts(seed, index) for index in indices]
    return np.stack(images), jnp.asarray(np.stack(labels), jnp.int32), jnp.asarray(np.stack(parts), jnp.int32)


def means_by_kind(
    prior: Float[np.ndarray, "n n"], labels: Int[np.ndarray, " n"], parts: Int[np.ndarray, " n"]
) -> dict[tuple[int, str], list[float]]:
    """Mean P_ij of one picture by class of i and kind of j; one value for each part."""
    found = defaultdict(list)
    for one, (cue, other, other_cue) in HARD.items():
        if other not in labels:
            continue
        for part in np.unique(parts[labels == one]):
            inside = parts == part
            rows = prior[(labels == one) & inside]
            if len(rows) < LEAST:
                continue
            told = (labels == cue) & inside
            kinds = (
                (labels == one) & inside,
                told,
                (labels != one) & ~told & inside,
                labels == other,
                labels == other_cue,
                ~np.isin(labels, (one, other, other_cue)) & ~inside,
            )
            for name, columns in zip(KINDS, kinds, strict=True):
                if columns.any():
                    found[one, name].append(float(rows[:, columns].mean()))
    return found


def measure(run: Restored, count: int) -> dict[str, dict[str, float]]:
    """Mean over the pictures, by class and kind; kinds that do not occur are left out."""
    data, mesh, size = run.config.data, sharding.make_mesh(jax.devices()[:1]), build.prior_size(run.config)
    network = compiled_network(run.model, mesh, mean=data.mean, std=data.std)
    found = defaultdict(list)
    for begin in range(0, count, BATCH):
        images, *maps = pictures(range(begin, min(begin + BATCH, count)))
        prior = jax.nn.sigmoid(network(run.variables, images).prior.logits())
        labels, parts = (np.asarray(losses.downsample_labels(one, size)) for one in maps)
        for figures in map(means_by_kind, np.asarray(prior), labels, parts):
            for key, values in figures.items():
                found[key] += values
    return {
        scenes.CLASSES[one]: {kind: float(np.mean(found[one, kind])) for kind in KINDS if found[one, kind]}
        for one in HARD
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="of a run on scenes_places")
    parser.add_argument("--pictures", type=int, default=200, help="of the validation split")
    arguments = parser.parse_args()
    run = restore(arguments.workdir, sharding.make_mesh(jax.devices()[:1]))
    if run.dataset.name != "scenes_places" or not run.config.model.context_prior:
        raise UserError(
            f"{arguments.workdir} is not a run with a context prior on scenes_places: name another --workdir"
        )
    means = measure(run, arguments.pictures)
    print("| class | " + " | ".join(KINDS) + " |\n|---" + "|---:" * len(KINDS) + "|")
    for name, figures in means.items():
        print(f"| {name} | " + " | ".join(f"{figures[kind]:.2f}" if kind in figures else "-" for kind in KINDS) + " |")
    print(json.dumps({"benchmark": "prior_by_part", "workdir": str(arguments.workdir), "means": means}))


if __name__ == "__main__":
    exit_status.run(main)
