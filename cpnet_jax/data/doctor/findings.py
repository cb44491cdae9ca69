"""The kinds of problems in a dataset, with titles and remedies."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of problem.

    Attributes:
      fault: whether training would fail or learn something wrong; if False, the finding is a warning.
      title: name for the report.
      remedy: what to do about it.
    """

    fault: bool
    title: str
    remedy: str


@dataclass(frozen=True)
class Finding:
    """A problem: its kind (a key of KINDS), the file, class or split that has it, and details."""

    kind: str
    where: str
    detail: str = ""


# In the order of the report.
KINDS = {
    "image_without_label": Kind(True, "image without a label", "Add the label or remove the image."),
    "label_without_image": Kind(True, "label without an image", "Add the image or remove the label."),
    "image_unreadable": Kind(True, "unreadable image", "Download or save it again, or remove the pair."),
    "label_unreadable": Kind(True, "unreadable label", "Download or save it again, or remove the pair."),
    "label_no_indices": Kind(
        True,
        "label that cannot be read as class indices",
        "Save one class index per pixel, as a one-channel or palette PNG.",
    ),
    "palettes_differ": Kind(
        True,
        "label whose palette shows an index in another colour than an earlier label's",
        "Its indices may be renumbered: set config.data.folder.mask_format to 'indices' if the indices are right, else "
        "give every class its colour in the class file and set it to 'colours'.",
    ),
    "label_lossy": Kind(
        True,
        "label saved as JPEG",
        "Compression has mixed neighbouring classes into values of other classes: export the labels again, as PNG.",
    ),
    "size_mismatch": Kind(
        True,
        "label whose size differs from its image's",
        "Export it again in the image's size; resize labels by nearest neighbour only.",
    ),
    "orientation_unknown": Kind(
        True,
        "image with an EXIF orientation whose label may be turned by it or not",
        "Its size does not show it: set config.data.folder.orientation to 'turned' if labels fit the images as viewers "
        "show them, else to 'stored'.",
    ),
    "unknown_values": Kind(
        True,
        "label with unknown values",
        "Correct the labels; in your own dataset, give these values a class (or ignore) in the class file.",
    ),
    "off_by_one": Kind(False, "sign of shifted label values", "Compare the label values with the dataset's classes."),
    "no_labels": Kind(True, "split without a labelled pixel", "Training and evaluation need labels: label it."),
    "in_two_splits": Kind(
        True,
        "image that is also in another split",
        "Evaluation on training images is not valid: remove it from one of the splits.",
    ),
    "duplicate_image": Kind(False, "duplicate image", "It counts twice: remove one unless that is intended."),
    "void_class": Kind(
        False,
        "class whose name says that its pixels are unlabelled",
        "It is trained and counted like any other: if it marks pixels without a class, rename it to 'ignore' in the "
        "class file.",
    ),
    "all_ignored": Kind(
        False, "label that is ignored everywhere", "Nothing is learned from it: label it or remove the pair."
    ),
    "class_not_trained": Kind(
        False, "class that is evaluated but never seen in training", "It cannot be learned: its IoU will be 0."
    ),
    "class_never_seen": Kind(False, "class never seen", "If the images show it, check its label value."),
    "class_rare": Kind(False, "class of very few pixels", "Set config.data.class_uniform=True to see it more often."),
    "zero_outlines": Kind(
        False,
        "value 0 seems to mark unlabelled borders, but is trained as a class",
        "Open a mask that holds it. If it outlines the objects, write '0: ignore' ('ignore 0 0 0' for colours) instead "
        "of that class into your class file. If these are thin objects, such as lane markings, nothing is wrong.",
    ),
    "split_size": Kind(False, "split whose size differs from the published one", "Results are not comparable."),
    "image_turned": Kind(
        False,
        "image with an EXIF orientation",
        "Most viewers turn it, training may not: check on the sheet that the label fits.",
    ),
    "image_grey": Kind(False, "greyscale image", "Training uses three equal channels."),
    "image_transparent": Kind(False, "image with transparency", "Alpha is dropped; transparent pixels become visible."),
    "image_cmyk": Kind(False, "CMYK image", "Conversion to RGB is approximate: save it as RGB."),
    "image_frames": Kind(False, "image of several frames or pages", "Training uses the first: save the others apart."),
    "image_deep": Kind(
        False,
        "image of more than 8 bits a channel",
        "Training scales the values to 8 bits, by the range above: check that it is the range of your camera.",
    ),
    "image_not_finite": Kind(
        False,
        "image with values that are NaN or infinite",
        "Training makes NaN as dark as the lowest value of the range, and cuts infinite values off: correct them.",
    ),
    "unknown_range": Kind(
        True,
        "image values of unknown range",
        "Set config.data.folder.value_range to the values that shall become black and white.",
    ),
}


def is_fault(finding: Finding) -> bool:
    """Returns whether a finding makes training unsound."""
    return KINDS[finding.kind].fault
