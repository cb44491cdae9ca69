"""CPNet-R50 on PASCAL VOC 2012 with SBD's additional labels (21 classes, 10,582 / 1,449 images).

    python main.py --config=configs/voc.py

The first run downloads both (3.4 GB): docs/datasets.md. --config.data.source=FOLDER reads your copy: VOCdevkit/VOC2012
and SBD's benchmark_RELEASE (or SegmentationClassAug). With VOC alone, it trains on 1,464 images. The paper has no
experiment on VOC. These are its PASCAL-Context settings with the usual schedule of 40,000 steps (about 60 epochs). No
figure is published, and none was measured here. Meant for 8 or more accelerators with 2 images of 512x512 on each.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.name = "voc"
    config.total_steps = 40_000
    config.eval_every = 4_000
    config.data.name = "voc"
    config.data.num_classes = 21
    config.data.crop_size = (512, 512)
    config.model.bfloat16 = True
    config.init.backbone = default.IMAGENET_BACKBONE
    config.optimizer.base_lr = 0.01
    return config
