"""Learning, in a process of its own: feedback goes into the router that decides, and refits must pass a gate."""
