"""A CPNet-R18 from scratch on one's own images: docs/your_own_data.md.

    python main.py --config=configs/folder.py --config.data.source=FOLDER

FOLDER holds images/, masks/ and classes.txt, one class name a line; other layouts are fields of config.data.folder.
Meant for one accelerator with 16 GB or more; on a laptop take less of everything:

    python main.py --config=configs/folder.py --config.data.source=FOLDER --config.batch_size=8 \
        --config.data.crop_size="(128,128)" --config.model.channels=128 --config.total_epochs=30

No mIoU can be promised for data that nobody here has seen.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.name = "folder"
    config.total_steps = 10_000
    config.eval_every = 1_000
    config.checkpoint_every = 500
    config.data.name = "folder"
    config.data.num_classes = 0  # as many as the class file names
    config.data.crop_size = (384, 384)
    config.model.depth = 18
    config.optimizer.base_lr = 0.02
    config.optimizer.warmup_steps = 50
    return config
