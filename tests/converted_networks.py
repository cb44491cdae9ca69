"""A small CPNet's tensors, and --mode=convert as a function."""

from configs import camvid
from cpnet_jax.modes.convert import convert

CROP = (16, 24)


def config():
    fields = camvid.get_config()
    fields.data.crop_size = CROP
    fields.model.update(depth=18, stem="deep", channels=8, aux_channels=4, bfloat16=False)
    return fields


def run(file=None, *, config=None, workdir=None, output=None, **normalization):
    convert(
        weights=file and str(file),
        config=config,
        workdir=workdir,
        output=output,
        checkpoint="latest",
        normalization={"order": None, "mean": None, "std": None} | normalization,
    )


HERE = {"experiment": "lake"}
