"""The kinds of trouble: which of them make training unsound, what they are called, and what to do."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """`fault`: training would fail or learn something false; otherwise sound but odd, and worth a look."""

    fault: bool
    title: str
    remedy: str


@dataclass(frozen=True)
class Finding:
    """One trouble: its kind, the file (or class, or split) that has it, and details of this one."""

    kind: str
    where: str
    detail: str = ""


# In the order of the report.
KINDS = {
    "image_without_label": Kind(True, "image without a label", "Add the label or take the image out."),
    "label_without_image": Kind(True, "label without an image", "Add the image or take the label out."),
    "image_unreadable": Kind(True, "unreadable image", "Fetch or save it again, or take the pair out."),
    "label_unreadable": Kind(True, "unreadable label", "Fetch or save it again, or take the pair out."),
    "label_no_indices": Kind(
        True,
        "label that cannot be read as class indices",
        "Save one class index a pixel, as a one-channel or palette PNG.",
    ),
    "label_lossy": Kind(
        True,
        "label saved as JPEG",
        "Compression has mixed neighbouring classes into values of other ones: export the labels again, as PNG.",
    ),
    "size_mismatch": Kind(
        True, "label of another size than its image", "Export again in the image's size; scale a label by nearest."
    ),
    "unknown_values": Kind(
        True,
        "label with values outside the table",
        "Correct the labels, or give these values a class (or the ignore value) in the table.",
    ),
    "off_by_one": Kind(
        False, "sign that labels are shifted against the table", "Compare the table with how the labels were made."
    ),
    "no_labels": Kind(True, "split without a labelled pixel", "There is nothing to learn from or to measure by."),
    "in_two_splits": Kind(
        True,
        "image that is in another split too",
        "What is trained on cannot be measured by: take it out of one of the splits.",
    ),
    "duplicate_image": Kind(False, "image that is there twice", "It counts double: take one out if that is not meant."),
    "all_ignored": Kind(
        False, "label that is ignored everywhere", "It teaches nothing: take the pair out or label it."
    ),
    "class_not_trained": Kind(
        False, "class that is evaluated but never seen in training", "It cannot be learned: its IoU will be 0."
    ),
    "class_never_seen": Kind(False, "class never seen", "Check the table if you know that it is there."),
    "class_rare": Kind(False, "class of very few pixels", "Expect it to be missed without class-balanced sampling."),
    "zero_outlines": Kind(
        False,
        "sign that 0 means void",
        "If 0 is what nobody labelled, the table must ignore it.",
    ),
    "split_size": Kind(False, "split of another size than published", "Figures will not compare with published ones."),
    "image_turned": Kind(
        False,
        "image with an EXIF orientation",
        "Training takes pixels as they are stored, most viewers turn them: see on the sheet whether the label fits.",
    ),
    "image_grey": Kind(False, "greyscale image", "The network is given three equal channels."),
    "image_transparent": Kind(False, "image with transparency", "It is dropped: what it hid comes to light."),
    "image_cmyk": Kind(False, "CMYK image", "Conversion is approximate: save it as RGB."),
    "image_deep": Kind(False, "image of more than 8 bits a channel", "Only the upper 8 bits are used."),
}


def is_fault(finding: Finding) -> bool:
    return KINDS[finding.kind].fault
