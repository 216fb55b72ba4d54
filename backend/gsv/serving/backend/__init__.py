"""What runs inside Triton's stub processes."""
