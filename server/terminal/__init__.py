"""`unsway chat`: a conversation in the terminal, with the engine in this process."""
