"""Formats of other projects, read and written offline: never imported by a server."""
