"""The gateway's settings: `pointsman.yaml`, checked as a whole before anything starts."""

from pointsman.gateway.settings.load import Fault, InvalidSettingsError, load_settings
from pointsman.gateway.settings.prices import Capability, ModelFacts, Price, Rates
from pointsman.gateway.settings.schema import (
    KeySettings,
    ModelSettings,
    Settings,
    TradeOffSettings,
    UpstreamSettings,
)
from pointsman.gateway.settings.watch import SettingsFile

__all__ = [
    "Capability",
    "Fault",
    "InvalidSettingsError",
    "KeySettings",
    "ModelFacts",
    "ModelSettings",
    "Price",
    "Rates",
    "Settings",
    "SettingsFile",
    "TradeOffSettings",
    "UpstreamSettings",
    "load_settings",
]
