"""Load test of a running server: load (who asks when), metrics (what the server counted),
report (figures and JSON), plots (PNG)."""
