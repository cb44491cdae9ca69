"""CPNet-R18 on the generated dataset `scenes_places`: several places in a picture, so context must be selective.

    python main.py --config=configs/scenes_places.py

Like configs/quickstart.py, with other pictures and more steps, which these pictures need: 5 to 8 minutes on two CPU
cores. mIoU on val, single scale, three seeds: 73.9 +- 0.7 (docs/context_prior.md).
"""

from configs import quickstart


def get_config():
    config = quickstart.get_config()
    config.name = "scenes_places"
    config.data.name = "scenes_places"
    config.total_steps = 400
    return config
