"""An evaluation as one HTML file: it opens from disk, asks the network for nothing, reads on a phone and prints."""

from pointsman.report.page import render, write

__all__ = ["render", "write"]
