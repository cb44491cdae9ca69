"""CPNet-R101 on PASCAL-Context (59 classes), the paper's settings.

    python main.py --config=configs/pascal_context.py

Published (paper, PASCAL-Context val, multi-scale + flip): 53.9 mIoU. Not measured here.
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
    config.optimizer.base_lr = 0.01
    return config
