"""The known submission formats: Cityscapes and ADE20K."""

from cpnet_jax.data.catalog import ADE20K, CITYSCAPES
from cpnet_jax.data.catalog.cityscapes import LABEL_IDS
from cpnet_jax.inference.submissions.format import Format

# The server finds predictions like getPrediction of cityscapesScripts: exactly one CITY_SEQUENCE_FRAME*.png for each
# test image, in any folder. Values are labelIds.
CITYSCAPES_TEST = Format(
    dataset=CITYSCAPES,
    values=LABEL_IDS,
    key=r"[A-Za-z-]+_\d{6}_\d{6}(?!\d)",
    example="berlin_000000_000019_leftImg8bit.png",
    ending="_labelIds.png",
    any_ending=True,
    test_key=r"(berlin|bielefeld|bonn|leverkusen|mainz|munich)_\d{6}_\d{6}",
    counts=(1525,),
    size=(2048, 1024),
)

# From the development kit of the scene parsing challenge: the image's name with .png, values as in the annotations,
# where 0 is "other". The challenge of 2016 had 2,000 test images; the set published since has 3,352.
ADE20K_TEST = Format(
    dataset=ADE20K,
    values=tuple(range(1, 151)),
    key=r"ADE_(train|val|test)_\d{8}(?!\d)",
    example="ADE_test_00000001.jpg",
    ending=".png",
    any_ending=False,
    test_key=r"ADE_test_\d{8}",
    counts=(2000, 3352),
)
