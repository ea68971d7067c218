"""Pointsman against libraries that evaluate policies or average potential outcomes, in an environment of its own."""
