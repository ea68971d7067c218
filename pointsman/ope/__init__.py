"""Off-policy evaluation: what judges a policy."""
