"""Edge bundles as files: a zip whose every byte is accounted for, and the one file that reads it,
here and on the device (`mpo_edge.py`)."""
