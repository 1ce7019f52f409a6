"""Decide what to remove from a model, remove it, and recover its quality."""
