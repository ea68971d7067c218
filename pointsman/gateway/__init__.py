"""The live system: an OpenAI-compatible gateway that routes, logs with propensities and learns."""
