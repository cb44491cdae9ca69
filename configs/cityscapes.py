"""CPNet-R101 on Cityscapes (19 classes), the paper's settings.

    python main.py --config=configs/cityscapes.py

Published (paper, Cityscapes test, multi-scale + flip): 81.3 mIoU. Not measured here. The paper trains it with
bootstrapped cross entropy, which is not here yet: this config uses the plain one.
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
    config.optimizer.base_lr = 0.01
    return config
