"""Preferences: pairwise votes on two models' answers, and the files they come in."""

from pointsman.logs.preferences.formats import PREFERENCE_FORMATS, read_preferences
from pointsman.logs.preferences.pairs import MergedPreferences, PositionBias, Preferences

__all__ = ["PREFERENCE_FORMATS", "MergedPreferences", "PositionBias", "Preferences", "read_preferences"]
