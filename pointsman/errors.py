"""Every error and warning Pointsman raises on purpose.

A wrong input raises a `PointsmanError`; a doubtful statistic warns with a `StatisticalWarning`. The command line
turns the first into one line and exit code 2, and prints the second beside the number it doubts.
"""

from __future__ import annotations


class PointsmanError(Exception):
    """Base of all errors: the message names the parameter, the rule, the value got and what to do."""


class InvalidParameterError(PointsmanError, ValueError):
    """An argument breaks its stated rule."""


class InvalidLogError(PointsmanError, ValueError):
    """A log or table breaks the log format."""


class InvalidRouterError(PointsmanError, ValueError):
    """A router folder is truncated, tampered with, foreign, or written by a newer version."""


class OverlapError(PointsmanError, ValueError):
    """The log holds no information on what was asked: an arm that never served, or a deterministic logger."""


class MissingDependencyError(PointsmanError, ImportError):
    """An optional part was asked for whose extra is not installed."""


class NotFittedError(PointsmanError, AttributeError):
    """A fitted attribute was used before `fit`."""


class EndpointError(PointsmanError, OSError):
    """A remote endpoint could not be reached, refused, or answered something else than was asked for."""


class CacheWarning(UserWarning):
    """A cache was of no use; the result is the same, later."""


class StatisticalWarning(UserWarning):
    """Base of all warnings about what the data can support."""


class OverlapWarning(StatisticalWarning):
    """Some arms were so rarely logged for some prompts that estimates lean on few rounds."""


class SmallSampleWarning(StatisticalWarning):
    """The effective sample size is too small for a normal interval to be trusted."""


class CalibrationWarning(StatisticalWarning):
    """Estimated propensities disagree with the frequencies they claim."""


class MissingOutcomeWarning(StatisticalWarning):
    """Rounds whose outcome is not known were left out of an estimate."""


class LabelWarning(StatisticalWarning):
    """Outcomes come from a judge, or from several sources, so quality is in that source's units."""
