"""The verbs as Python functions; `runs` needs torch, `benching` does not."""
