"""Recovering quality by training."""
