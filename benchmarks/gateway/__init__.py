"""The gateway beside a bare relay and litellm's proxy: see `python -m benchmarks.gateway --help`."""
