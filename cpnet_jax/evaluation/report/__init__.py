"""The report: one self-contained HTML page that opens offline."""

from cpnet_jax.evaluation.report import prior, times
from cpnet_jax.evaluation.report.matrix import frequent_confusions
from cpnet_jax.evaluation.report.page import write_report
from cpnet_jax.evaluation.report.training import Training, read_training

__all__ = ["Training", "frequent_confusions", "prior", "read_training", "times", "write_report"]
