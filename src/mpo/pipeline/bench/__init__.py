"""The story of `mpo bench`: measure, compare, judge."""
