"""Ablation on CamVid (SegNet split, train -> val) with a ResNet-18: the rows of `scenes`.

    python benchmarks/ablation.py --table=camvid --config.data.source=FOLDER [--seeds=0,1,2]
    python main.py --config=configs/ablations/camvid.py:psp --config.data.source=FOLDER

FOLDER and the settings are those of configs/camvid.py: 6,000 steps of 16 per run, on one accelerator, or on several
with --jobs. mIoU to expect: not measured here, and no figures are published.
"""

from configs import camvid
from configs.ablations import scenes, with_row

CONFIG = "configs/camvid.py"
ROWS = scenes.ROWS | {
    # With the usual dilations, which fit a feature map of 45 x 60.
    "aspp": {"model.context_prior": False, "model.context": "aspp"},
}
PUBLISHED = {}


def get_config(row: str = ""):
    return with_row(camvid.get_config(), ROWS, row)
