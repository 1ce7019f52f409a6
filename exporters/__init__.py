"""Turn a model into files that run elsewhere, and check that they do what the model does."""
