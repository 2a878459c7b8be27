"""What requests and replies look like on the wire."""
