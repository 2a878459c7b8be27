"""Contrast data: the same question asked neutrally and under pressure, from any source of questions."""
