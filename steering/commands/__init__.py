"""Commands of the library, one file each: they need no server."""
