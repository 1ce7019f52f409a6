"""Batches, splits, subjects, and how good a model is on them."""
