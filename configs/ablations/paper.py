"""Ablation of the paper: ADE20K val, ResNet-50, single scale, and the kernel of the Aggregation Module.

    python benchmarks/ablation.py --table=paper --config.data.source=ADEChallengeData2016.zip [--seeds=0] [--jobs=8]
    python main.py --config=configs/ablations/paper.py:psp --config.data.source=ADEChallengeData2016.zip

The settings are those of configs/ade20k.py, ImageNet weights included: 80,000 steps of 16 per run, on a machine with
several accelerators; --jobs is the number of simultaneous runs, one on each. On a pod, start each row by main.py, as in
docs/pods.md.

mIoU to expect, in %, as published (not measured here): dilated FCN 34.38, with auxiliary loss 36.24, ASPP 40.39, PSP
41.49; only the intra-class or inter-class context, with binary cross entropy 42.34 or 41.88, with the whole affinity
loss 42.74 or 42.43; the full layer 43.92. The aggregation kernel is 11, the best of 3, 5, 7, 11 and 15.
"""

from configs import ade20k
from configs.ablations import with_row

CONFIG = "configs/ade20k.py"
ROWS = {
    "fcn": {"model.context_prior": False, "model.aux_channels": 0},
    "aux": {"model.context_prior": False},
    "aspp": {"model.context_prior": False, "model.context": "aspp"},
    "psp": {"model.context_prior": False, "model.context": "psp"},
    "intra_bce": {"model.prior_contexts": "intra", "loss.global_weight": 0.0},
    "inter_bce": {"model.prior_contexts": "inter", "loss.global_weight": 0.0},
    "intra": {"model.prior_contexts": "intra"},
    "inter": {"model.prior_contexts": "inter"},
    "full": {},
    "kernel_3": {"model.aggregation_kernel": 3},
    "kernel_5": {"model.aggregation_kernel": 5},
    "kernel_7": {"model.aggregation_kernel": 7},
    "kernel_15": {"model.aggregation_kernel": 15},
}
# mIoU in %.
PUBLISHED = {
    "fcn": 34.38,
    "aux": 36.24,
    "aspp": 40.39,
    "psp": 41.49,
    "intra_bce": 42.34,
    "inter_bce": 41.88,
    "intra": 42.74,
    "inter": 42.43,
    "full": 43.92,
}


def get_config(row: str = ""):
    return with_row(ade20k.get_config(), ROWS, row)
