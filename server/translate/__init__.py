"""Between the wire and the library: the only package that knows both."""
