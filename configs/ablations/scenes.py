"""Ablation on generated scenes: rows like those of the paper, small enough for a laptop.

    python benchmarks/ablation.py --table=scenes [--seeds=0,1,2] [--classes=sea,sand,bed,table]
    python main.py --config=configs/ablations/scenes.py:psp

Twelve rows; 2 to 3 minutes per run on two CPU cores. Four rows are with and without affinity loss, with and without
aggregation; `full` has both. `pairs` has the prior that compares positions, see docs/context_prior.md. Measured mIoU in
%, mean +- standard deviation over the seeds 0, 1, 2 (of earlier code, except the last line; docs/context_prior.md has
seven rows of today's):

    none 63.8 +- 2.0, aux 63.2 +- 2.2, psp 80.4 +- 1.5, aspp 82.1 +- 0.4, non_local 74.0 +- 2.0,
    prior_unsupervised 82.7 +- 0.2, prior_bce_without_aggregation 78.9 +- 1.7,
    prior_affinity_without_aggregation 75.1 +- 5.1, prior_bce 83.0 +- 0.6, full 83.0 +- 0.6,
    pairs 84.8 +- 0.3, pairs_unsupervised 82.8 +- 0.7

With --config.total_steps=600:

    none 75.8 +- 0.6, psp 88.7 +- 0.2, prior_unsupervised 88.8 +- 0.1, non_local 88.9 +- 0.3,
    pairs_unsupervised 89.1 +- 0.0, full 89.2 +- 0.3, pairs 90.0 +- 0.1
"""

from configs import quickstart
from configs.ablations import with_row

CONFIG = "configs/quickstart.py"
ROWS = {
    "none": {"model.context_prior": False, "model.aux_channels": 0},
    "aux": {"model.context_prior": False},
    "psp": {"model.context_prior": False, "model.context": "psp"},
    # The usual 12, 24 and 36 reach beyond a feature map of 16 x 16.
    "aspp": {"model.context_prior": False, "model.context": "aspp", "model.aspp_dilations": (2, 4, 6)},
    "non_local": {"model.context_prior": False, "model.context": "non_local"},
    "prior_unsupervised": {"loss.prior_weight": 0.0},
    "prior_bce_without_aggregation": {"loss.global_weight": 0.0, "model.aggregation": False},
    "prior_affinity_without_aggregation": {"model.aggregation": False},
    "prior_bce": {"loss.global_weight": 0.0},
    "full": {},
    "pairs_unsupervised": {"model.prior": "pairs", "loss.prior_weight": 0.0},
    "pairs": {"model.prior": "pairs"},
}
PUBLISHED = {}


def get_config(row: str = ""):
    return with_row(quickstart.get_config(), ROWS, row)
