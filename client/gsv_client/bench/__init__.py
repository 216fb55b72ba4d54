"""Load test of a running server: load (when requests are sent), metrics (what the server counted),
report (figures and JSON), plots (PNG)."""
