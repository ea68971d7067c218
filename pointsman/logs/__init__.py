"""Logs: the table of rounds, its files, more labels of them, preferences, and logs simulated from full feedback."""

from pointsman.logs.files import read_log, read_table, replacing, write_log, write_table
from pointsman.logs.full_feedback import FullFeedback, read_full_feedback, write_full_feedback
from pointsman.logs.labels import LabelMatrix, Labels, label_matrix, read_labels, write_labels
from pointsman.logs.preferences import (
    PREFERENCE_FORMATS,
    MergedPreferences,
    PositionBias,
    Preferences,
    read_preferences,
)
from pointsman.logs.rounds import LoggedRounds
from pointsman.logs.simulate import LOGGERS, SIGNALS, Simulated, logging_probabilities, simulate

__all__ = [
    "LOGGERS",
    "PREFERENCE_FORMATS",
    "SIGNALS",
    "FullFeedback",
    "LabelMatrix",
    "Labels",
    "LoggedRounds",
    "MergedPreferences",
    "PositionBias",
    "Preferences",
    "Simulated",
    "label_matrix",
    "logging_probabilities",
    "read_full_feedback",
    "read_labels",
    "read_log",
    "read_preferences",
    "read_table",
    "replacing",
    "simulate",
    "write_full_feedback",
    "write_labels",
    "write_log",
    "write_table",
]
