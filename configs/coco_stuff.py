"""CPNet-R50 on COCO-Stuff 164k (171 classes, 118,287 / 5,000 images).

    python main.py --config=configs/coco_stuff.py

The first run downloads 21 GB and prepares as much again: docs/datasets.md. The paper has no experiment on COCO-Stuff.
Crop, batch, learning rate and schedule are those of mmsegmentation's configs for this dataset (512x512, 16, 0.01,
80,000 steps of poly SGD). With them it publishes for PSPNet, single scale / multi-scale + flip on val: R101 40.34 /
40.79; and with 160,000 steps, --config.total_steps=160000: R50 39.64 / 39.97. It resizes images to a short side of 512
and jitters colours, which this config does not. mIoU, time and memory were not measured here. Meant for 8 or more
accelerators with 2 images of 512x512 on each.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.name = "coco_stuff"
    config.total_steps = 80_000
    config.eval_every = 8_000
    config.data.name = "coco_stuff"
    config.data.num_classes = 171
    config.data.crop_size = (512, 512)
    config.model.bfloat16 = True
    config.init.backbone = default.IMAGENET_BACKBONE
    config.optimizer.base_lr = 0.01
    return config
