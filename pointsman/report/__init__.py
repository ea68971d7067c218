"""Results as one HTML file each: it opens from disk, asks the network for nothing, reads on a phone and prints."""

from pointsman.report.judges import render_fusion, write_fusion
from pointsman.report.page import render, write

__all__ = ["render", "render_fusion", "write", "write_fusion"]
