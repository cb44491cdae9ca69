"""Builder of COCO-Stuff: 171 classes, 118,287 / 5,000 images of COCO 2017."""

from pathlib import PurePosixPath
from typing import ClassVar

from cpnet_jax.data.builders.base import Pair, SegmentationBuilder, match_pairs
from cpnet_jax.data.catalog import COCO_STUFF
from cpnet_jax.data.catalog.coco_stuff import NAMES
from cpnet_jax.errors import UserError

UNLABELLED = 255
FOLDERS = {"train": "train2017", "val": "val2017"}


class CocoStuffBuilder(SegmentationBuilder, skip_registration=True):
    """Builder that reads FOLDER/ID.jpg and, of stuffthingmaps, FOLDER/ID.png; FOLDER is train2017 or val2017.

    Images and labels may lie side by side or apart, such as in images/ and annotations/. The value of a label's pixel
    is an id of COCO-Stuff less one. Ids of classes that COCO never segmented are ignored.
    """

    name = "coco_stuff"
    DATASET = COCO_STUFF
    LABEL_RULE: ClassVar = {
        **dict.fromkeys((*range(len(NAMES)), UNLABELLED), COCO_STUFF.ignore_label),
        **{NAMES.index(name): index for index, name in enumerate(COCO_STUFF.classes)},
    }

    def pairs(self) -> dict[str, list[Pair]]:
        # Names of labels end in a digit: mmsegmentation's converter writes ID_labelTrainIds.png beside ID.png.
        return {
            split: match_pairs(self, *(self._prefix(folder, suffix) + f"*[0-9]{suffix}" for suffix in (".jpg", ".png")))
            for split, folder in FOLDERS.items()
        }

    def _prefix(self, folder: str, suffix: str) -> str:
        """Returns the place ("OUTER/FOLDER/") of a split's files; UserError if there are several."""
        parents = {name[: name.rindex("/") + 1] for name in self.source.names if name.endswith(suffix) and "/" in name}
        found = sorted(parent for parent in parents if PurePosixPath(parent).name == folder)
        if len(found) > 1:
            raise UserError(
                f"{self.source.path} has {suffix} files of {folder} in {' and '.join(found)}: keep only one of them"
            )
        return found[0] if found else f"{folder}/"
