"""The story: the only floor where optimizer, exporters and profiles meet."""
