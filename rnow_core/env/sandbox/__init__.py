"""Sandboxes: places where a project's tools run and can harm nothing outside."""
