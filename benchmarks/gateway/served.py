"""The gateway as a process: `python -m benchmarks.gateway.served SETTINGS`."""

from __future__ import annotations

import sys

from pointsman.gateway.routing import Routing
from pointsman.gateway.serve import serve
from pointsman.gateway.settings import SettingsFile

if __name__ == "__main__":
    file = SettingsFile(sys.argv[1])
    serve(file.settings, file=file, make_decider=Routing())
