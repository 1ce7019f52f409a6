"""The story of `mpo doctor`: what is installed, and what really works."""
