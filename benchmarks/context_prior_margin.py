"""What is the context prior worth on `scenes`? The quickstart with and without it, several seeds each.

    python benchmarks/context_prior_margin.py [--seeds=0,1,2] [--out=runs/margin]

Every run is a run of main.py in its own workdir, so an interrupted comparison goes on where it stopped. Prints a table
of val mIoU (mean, standard deviation over seeds, smallest, largest), the IoU of each class of the hard pairs, and one
JSON line.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from cpnet_jax.data.scenes import HARD_PAIRS

ROOT = Path(__file__).parents[1]
VARIANTS = {
    "CPNet": [],
    "without affinity loss": ["--config.loss.prior_weight=0.0"],
    "without context prior": ["--config.model.context_prior=False"],
}


def run(variant: str, seed: int, out: Path) -> dict:
    """eval.json of one run."""
    workdir = out / f"{variant.replace(' ', '_')}_{seed}"
    command = [sys.executable, ROOT / "main.py", "--config=configs/quickstart.py", f"--workdir={workdir}"]
    print(f"{variant}, seed {seed}", flush=True)
    subprocess.run([*command, f"--config.seed={seed}", *VARIANTS[variant]], cwd=ROOT, check=True)
    return json.loads((workdir / "eval.json").read_text())


def row(name: str, results: list[dict]) -> str:
    miou = [100 * result["mIoU"] for result in results]
    spread = statistics.stdev(miou) if len(miou) > 1 else float("nan")
    hard = [
        f"{statistics.mean(100 * result['per_class'][label] for result in results):5.1f}"
        for pair in HARD_PAIRS
        for label in pair
    ]
    cells = [f"{statistics.mean(miou):.1f} ± {spread:.1f}", f"{min(miou):.1f}", f"{max(miou):.1f}", *hard]
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "margin")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    results = {variant: [run(variant, seed, arguments.out) for seed in seeds] for variant in VARIANTS}
    labels = [label for pair in HARD_PAIRS for label in pair]
    print(f"| network | mIoU % | min | max | {' | '.join(labels)} |")
    print("|---" * (4 + len(labels)) + "|")
    for variant, found in results.items():
        print(row(variant, found))
    print(json.dumps({name: [result["mIoU"] for result in found] for name, found in results.items()}))


if __name__ == "__main__":
    main()
