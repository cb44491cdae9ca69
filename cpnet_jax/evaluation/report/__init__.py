"""The report: one page, index.html, that needs nothing else and no network to be read."""

from cpnet_jax.evaluation.report.page import write_report

__all__ = ["write_report"]
