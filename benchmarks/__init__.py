"""Studies of Pointsman against its peers, by public names only; no part of the package."""
