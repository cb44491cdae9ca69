"""CPNet-R50 on ADE20K (SceneParse150, 150 classes, 20,210 / 2,000 images), the paper's settings.

    python main.py --config=configs/ade20k.py --config.data.source=ADEChallengeData2016.zip

The archive (1 GB) is the scene parsing challenge's, from http://sceneparsing.csail.mit.edu; the folder in it, unpacked,
does as well. The full ADE20K release is another set of labels and is refused. What is read is kept under
--config.data.dir, another 1 GB; after that the command needs no source.

Published (paper, ADE20K val, mIoU single scale / multi-scale + flip): R50 43.92 / 44.46, and with
--config.model.depth=101 45.39 / 46.27. They start from weights trained on ImageNet, as this does (docs/finetuning.md):
the first start fetches them. Not measured here, nor are the time and memory it needs. The crop of 480 is the authors'
issue tracker's; their released config has 512 (--config.data.crop_size="(512,512)").
"""

from configs import default


def get_config():
    config = default.get_config()
    config.name = "ade20k"
    config.model.bfloat16 = True
    config.init.backbone = default.IMAGENET_BACKBONE
    return config
