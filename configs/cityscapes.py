"""CPNet-R101 on Cityscapes (19 classes, 2,975 / 500 images of 2048x1024) with the paper's settings.

    python main.py --config=configs/cityscapes.py

The first run downloads leftImg8bit_trainvaltest.zip (11 GB) and gtFine_trainvaltest.zip (241 MB) with your account:
docs/datasets.md. --config.data.source=FOLDER reads your copy of both, or their folders leftImg8bit and gtFine. The
labelIds are read as they are, without a conversion script. The prepared data take another 8 GB in --config.data.dir.
Trains on the train split and evaluates on val; the test split has no public labels.

Published (paper, Cityscapes test, multi-scale + flip): 81.3 mIoU, from ImageNet weights. mIoU, time and memory were not
measured here. As in the paper, the cross entropy is bootstrapped (config.loss.ohem). The paper gives no figures for it:
the threshold is the usual 0.7, with at least 100,000 pixels an image.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.name = "cityscapes"
    config.total_steps = 60_000
    config.eval_every = 6_000
    config.data.name = "cityscapes"
    config.data.num_classes = 19
    config.data.crop_size = (768, 768)
    config.model.depth = 101
    config.model.bfloat16 = True
    config.init.backbone = default.IMAGENET_BACKBONE
    config.loss.ohem = True
    config.optimizer.base_lr = 0.01
    config.eval.scales = (0.5, 0.75, 1.0, 1.5)
    return config
