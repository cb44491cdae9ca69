"""CPNet-R18 on CamVid (SegNet split, 11 classes, 480x360), from scratch.

    python main.py --config=configs/camvid.py

The first run downloads the archive of SegNet's repository (0.2 GB): docs/datasets.md. --config.data.source=FOLDER reads
your copy, a folder or an archive with train, trainannot, val and valannot, and optionally test and testannot. Meant for
one accelerator; not measured there. --config.model.depth=50 is the larger network. A short version for two CPU cores
took an hour and a half beside other work, and reached 39.9 mIoU on val (measured, single scale, seed 0):

    python main.py --config=configs/camvid.py --workdir=runs/camvid_cpu \
        --config.data.crop_size="(192,256)" --config.batch_size=8 --config.total_steps=800 --config.model.channels=256
"""

from configs import default


def get_config():
    config = default.get_config()
    config.name = "camvid"
    config.total_steps = 12_000
    config.eval_every = 1_000
    config.checkpoint_every = 500
    config.data.name = "camvid"
    config.data.num_classes = 11
    config.data.crop_size = (360, 480)  # the whole image: a prior of 45 x 60
    config.data.scales = (0.75, 1.0, 1.25, 1.5, 1.75)
    config.model.depth = 18
    config.optimizer.base_lr = 0.02
    config.optimizer.warmup_steps = 50
    return config
