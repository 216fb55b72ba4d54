"""The networks: modules only. No file access, no device choice, no environment.

Rows of a batch may have different lengths. Then a module takes ``lengths`` [B] and masks what lies
beyond, so that a row gives what it gives alone; ``None`` says that every row fills the tensor.
"""
