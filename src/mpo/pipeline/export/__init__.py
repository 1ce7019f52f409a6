"""The story of `mpo export`: files in other formats, proved to be the same model."""
