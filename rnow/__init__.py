"""Distil a big model into a small one on your own hardware."""

__version__ = "0.1.0"
