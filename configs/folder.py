"""CPNet-R18 on your own images, from scratch: docs/your_own_data.md.

    python main.py --config=configs/folder.py --config.data.source=FOLDER

FOLDER holds images/, masks/ and classes.txt with one class name a line. Other layouts: fields of config.data.folder.
Meant for one accelerator with 16 GB or more; not measured. On a laptop use a smaller network and crop:

    python main.py --config=configs/folder.py --config.data.source=FOLDER --config.batch_size=8 \
        --config.data.crop_size="(128,128)" --config.model.channels=128 --config.total_epochs=30
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
    config.data.cat_max_ratio = 0.75  # crops of a single class teach the context prior nothing of other classes
    config.model.depth = 18
    config.optimizer.base_lr = 0.02
    config.optimizer.warmup_steps = 50
    return config
