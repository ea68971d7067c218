"""Nuisances: outcome and propensity models, cross-fitted."""
