"""Structured output: grammars as constraints of answers."""
