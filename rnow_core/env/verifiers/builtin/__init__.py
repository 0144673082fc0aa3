"""A project of one file: the rewards that need no rewards.py."""
