"""CPNet-R101 on Cityscapes (19 classes, 2,975 / 500 images of 2048x1024), the paper's settings.

    python main.py --config=configs/cityscapes.py --config.data.source=FOLDER

FOLDER holds leftImg8bit_trainvaltest.zip (11 GB) and gtFine_trainvaltest.zip (241 MB), from
https://www.cityscapes-dataset.com/downloads after registration, or the folders leftImg8bit and gtFine out of them. The
labelIds are used as they are: no script need be run before. What is read is kept under --config.data.dir, another 8 GB;
after that the command needs no source. Training is on the train split, evaluation on val; the test split has no public
labels.

Published (paper, Cityscapes test, multi-scale + flip): 81.3 mIoU, from weights trained on ImageNet. Not measured here,
nor are the time and memory it needs. As in the paper the cross entropy is bootstrapped (config.loss.ohem): of the hard
pixels, with the usual threshold of 0.7 and at least 100,000 an image, since the paper names no figures.
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
