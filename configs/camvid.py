"""CPNet-R18 on CamVid (SegNet split, 11 classes, 480x360), from scratch on the 367 training images.

    python main.py --config=configs/camvid.py

The first run downloads the archive of SegNet's repository (0.2 GB): docs/datasets.md. --config.data.source=FOLDER reads
your copy, a folder or an archive with train, trainannot, val and valannot, and optionally test and testannot.

Meant for one GPU, and not measured: neither mIoU nor time. --mode=plan gives 13.4 ms a step on an H100. At 1.7 times
that, 6,000 steps take 2.3 minutes. docs/results.md#camvid-from-scratch has the reasons for the settings.

A short version for two CPU cores takes more than an hour. With earlier settings (no class weights, no jitter, learning
rate 0.02) it reached 39.9 mIoU on val; with these it was not measured:

    python main.py --config=configs/camvid.py --workdir=runs/camvid_cpu --config.model.bfloat16=False \
        --config.data.crop_size="(192,256)" --config.batch_size=8 --config.total_steps=800
"""

from configs import default


def get_config():
    config = default.get_config()
    config.name = "camvid"
    config.total_steps = 6_000  # 260 epochs
    config.eval_every = 1_000
    config.checkpoint_every = 500
    config.data.name = "camvid"
    config.data.num_classes = 11
    config.data.crop_size = (360, 480)  # the whole image: a prior of 45 x 60
    config.data.scales = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    config.data.photometric_jitter = True
    config.model.depth = 18
    config.model.channels = 256  # half of the backbone's 512 channels
    config.model.bfloat16 = True
    # 1 / ln(1.02 + p) for a class that has a share p of the labelled training pixels. The scale does not matter.
    config.loss.class_weights = (0.80, 0.61, 4.79, 0.48, 2.21, 1.25, 4.50, 4.57, 1.83, 5.43, 6.27)
    config.optimizer.base_lr = 0.05
    config.optimizer.warmup_steps = 200
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decay_norm_and_bias = False
    config.system.threads = 12  # the plan's 1,200 images/s take 6 cores, which prepare 200 each
    return config
