"""Calibrate: from a model to a pack. Only this package fits anything."""
