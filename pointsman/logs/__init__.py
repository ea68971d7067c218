"""Logs: the table of rounds, its files, and logs simulated from full feedback."""
