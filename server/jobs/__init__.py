"""Calibrations and evaluations in the background of a server: each a process of its own, resumed when stopped."""
