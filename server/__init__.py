"""The edge: HTTP in, token events out."""
