"""The report: one self-contained HTML page that opens offline."""

from cpnet_jax.evaluation.report.page import write_report

__all__ = ["write_report"]
