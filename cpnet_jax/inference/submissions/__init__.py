"""Writes predictions in the format of benchmark test servers.

submission = Submission(FORMATS["cityscapes"], folder)
submission.begin(dataset, images)       before predicting: checks classes and names
submission.write(image, classes)        for each image
submission.finish()                     packs and checks
"""

from cpnet_jax.inference.submissions.format import Format, write_zip
from cpnet_jax.inference.submissions.formats import ADE20K_TEST, CITYSCAPES_TEST
from cpnet_jax.inference.submissions.submission import Submission
from cpnet_jax.inference.submissions.validation import validate

__all__ = ["ADE20K_TEST", "CITYSCAPES_TEST", "FORMATS", "Format", "Submission", "validate", "write_zip"]

FORMATS = {form.dataset.name: form for form in (ADE20K_TEST, CITYSCAPES_TEST)}
