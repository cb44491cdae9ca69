"""What each part is worth on CamVid (SegNet split, train -> val) with a ResNet-18: the rows of `scenes`.

    python benchmarks/ablation.py --table=camvid --config.data.source=FOLDER [--seeds=0,1,2]
    python main.py --config=configs/ablations/camvid.py:psp --config.data.source=FOLDER

FOLDER is that of configs/camvid.py, and so are the settings: 12,000 steps of 16 a run, meant for one accelerator, or
several with --jobs. Nothing of it has been measured here, and there is no published figure to expect.
"""

from configs import camvid
from configs.ablations import scenes, with_row

CONFIG = "configs/camvid.py"
ROWS = scenes.ROWS | {
    # The dilations of the paper's competitor: the map is 45 x 60.
    "aspp": {"model.context_prior": False, "model.context": "aspp"},
}
PUBLISHED = {}


def get_config(row: str = "full"):
    return with_row(camvid.get_config(), ROWS, row)
