"""CPNet-R101 on PASCAL-Context (59 classes, all other pixels ignored) with the paper's settings.

    python main.py --config=configs/pascal_context.py

The first run downloads VOC2010 and the release's labels (1.3 GB): docs/datasets.md. --config.data.source=FOLDER reads
your copy: VOCdevkit/VOC2010 and the labels in one of their forms, which are SegmentationClassContext,
trainval_merged.json, 59_context_labels or the release's trainval/*.mat. The json has 4,996 / 5,104 images, the release
4,998 / 5,105. With the background as a 60th class:

    python main.py --config=configs/pascal_context.py --workdir=runs/pascal_context_60 \
        --config.data.name=pascal_context_60 --config.data.num_classes=60

Published (paper, PASCAL-Context val, 59 classes, multi-scale + flip): 53.9 mIoU. mIoU and time were not measured here.
Meant for 8 or more accelerators with 2 images of 512x512 on each.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.name = "pascal_context"
    config.total_steps = 25_000
    config.eval_every = 2_500
    config.data.name = "pascal_context"
    config.data.num_classes = 59
    config.data.crop_size = (512, 512)
    config.model.depth = 101
    config.model.bfloat16 = True
    config.init.backbone = default.IMAGENET_BACKBONE
    config.optimizer.base_lr = 0.01
    return config
