"""`python -m rnow`."""
