"""Which blocks a model has, which can go, and taking them out."""
