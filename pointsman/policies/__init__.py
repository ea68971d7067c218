"""Policies: what chooses an arm."""
