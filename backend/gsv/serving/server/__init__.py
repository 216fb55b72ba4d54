"""What runs outside of Triton: it starts a server, watches it and ends it."""
