"""Predictions as benchmarks' servers take them.

form = FORMATS["cityscapes"]
form.check(dataset, images)                       before predicting: right classes, right names
form.write(folder, image, classes)                for each image
write_zip(folder, archive)                        once
problems = validate(form, archive, images)        nothing to complain of: an empty list
"""

from cpnet_jax.evaluation.submissions.format import Format, write_zip
from cpnet_jax.evaluation.submissions.formats import ADE20K_TEST, CITYSCAPES_TEST
from cpnet_jax.evaluation.submissions.validation import validate

__all__ = ["ADE20K_TEST", "CITYSCAPES_TEST", "FORMATS", "Format", "validate", "write_zip"]

FORMATS = {form.dataset.name: form for form in (ADE20K_TEST, CITYSCAPES_TEST)}
