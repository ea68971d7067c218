"""BaRP: one policy for every trade-off, learned from bandit feedback by REINFORCE."""

from pointsman.online.barp.policy import BaRP
from pointsman.online.barp.training import train

__all__ = ["BaRP", "train"]
