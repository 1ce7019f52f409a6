"""The story of `mpo optimize`: plan, recovery, guard, proof."""
