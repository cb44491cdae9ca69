"""Ablation on generated scenes with several places in a picture: the rows of `scenes`.

    python benchmarks/ablation.py --table=scenes_places [--seeds=0,1,2] [--classes=sea,sand,bed,table]
    python main.py --config=configs/ablations/scenes_places.py:psp

Twelve rows; 5 to 8 minutes per run on two CPU cores. Measured mIoU in %, mean +- standard deviation over the seeds 0,
1, 2:

    none 68.8 +- 0.6, non_local 73.0 +- 0.3, psp 76.8 +- 0.4, prior_unsupervised 71.3 +- 2.1, full 73.9 +- 0.7,
    pairs_unsupervised 75.2 +- 3.1, pairs 74.8 +- 1.5
"""

from configs import scenes_places
from configs.ablations import scenes, with_row

CONFIG = "configs/scenes_places.py"
ROWS = scenes.ROWS
PUBLISHED = {}


def get_config(row: str = ""):
    return with_row(scenes_places.get_config(), ROWS, row)
