"""The model layer: the only code that touches transformers."""
