"""CPNet-R50 on ADE20K (SceneParse150), the paper's settings.

    python main.py --config=configs/ade20k.py

Published (paper, ADE20K val): R50 43.92 mIoU single scale, R101 45.39 (--config.model.depth=101). Not measured here.
The crop of 480 is the authors' issue tracker's; their released config has 512 (--config.data.crop_size="(512,512)").
"""

from configs import default


def get_config():
    config = default.get_config()
    config.name = "ade20k"
    config.model.bfloat16 = True
    return config
