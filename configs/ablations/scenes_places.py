"""Ablation on generated scenes with several places in a picture: the rows of `scenes`.

    python benchmarks/ablation.py --table=scenes_places [--seeds=0,1,2] [--classes=sea,sand,bed,table]
    python main.py --config=configs/ablations/scenes_places.py:psp

Twelve rows; 5 to 8 minutes per run on two CPU cores. Measured mIoU in %, seed 0 only:

    none 69.5, non_local 73.2, psp 76.7, prior_unsupervised 72.2, full 74.3, pairs_unsupervised 78.5, pairs 75.3
"""

from configs import scenes_places
from configs.ablations import scenes, with_row

CONFIG = "configs/scenes_places.py"
ROWS = scenes.ROWS
PUBLISHED = {}


def get_config(row: str = ""):
    return with_row(scenes_places.get_config(), ROWS, row)
