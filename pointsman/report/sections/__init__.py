"""The sections of the report, one module each: they read the evaluation and return markup and plots."""

from pointsman.report.sections.base import Section

__all__ = ["Section"]
