"""Sampled text to tool calls: one parser a family, found from the model's own chat template."""
