"""CPNet-R18 on the generated dataset `scenes`: from nothing to a measured mIoU in minutes on a laptop.

    python main.py --config=configs/quickstart.py

It takes 2 to 3 minutes on two CPU cores, compilation included. Measured mIoU on val, single scale, seeds 0, 1, 2:
82.7 +- 1.0. The plain dilated network, without auxiliary head: 63.6 +- 1.6. More networks: docs/context_prior.md.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.name = "quickstart"
    config.batch_size = 8
    config.total_steps = 150
    config.eval_every = 0
    config.checkpoint_every = 50
    config.system.log_every = 10
    config.data.name = "scenes"
    config.data.num_classes = 12
    config.data.crop_size = (128, 128)
    config.data.scales = (0.75, 1.0, 1.25)
    config.model.depth = 18
    config.model.channels = 128
    config.model.aux_channels = 128
    config.optimizer.head_lr_multiplier = 10.0  # as the authors' code: the run is short
    config.eval.scales = config.data.scales
    return config
