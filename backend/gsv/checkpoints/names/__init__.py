"""Tables of names: upstream's checkpoint keys to ours, one module a file."""
