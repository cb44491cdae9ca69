"""CPNet-R50 on ADE20K (SceneParse150, 150 classes, 20,210 / 2,000 images) with the paper's settings.

    python main.py --config=configs/ade20k.py

The first run downloads ADEChallengeData2016.zip (1 GB) of the scene parsing challenge: docs/datasets.md. With
--config.data.source=PATH it reads your copy, packed or unpacked. The full ADE20K release has other labels and is
refused. The prepared data take another 1 GB in --config.data.dir.

Published (paper, ADE20K val, mIoU single scale / multi-scale + flip): R50 43.92 / 44.46; R101 45.39 / 46.27, with
--config.model.depth=101. mIoU, time and memory were not measured here. Training starts from ImageNet weights, which the
first run downloads (docs/finetuning.md). The crop of 480 is from the authors' issue tracker. Their released config has
512: --config.data.crop_size="(512,512)".
"""

from configs import default


def get_config():
    config = default.get_config()
    config.name = "ade20k"
    config.model.bfloat16 = True
    config.init.backbone = default.IMAGENET_BACKBONE
    return config
