"""Baselines: what a correction is held against, fitted and chosen on `fit` questions alone, run by the same engine."""
