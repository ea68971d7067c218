"""Nuisances: outcome and propensity models, cross-fitted.

Import from the modules: scikit-learn, which most of them need, takes a second to load, and this package's contract
(`nuisance.base`) is read where no model is ever fitted.
"""
