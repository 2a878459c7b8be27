"""Measure: questions with known answers, put to anything that generates, graded by the final committed answer."""
