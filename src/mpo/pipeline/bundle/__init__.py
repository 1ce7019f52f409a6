"""The story of `mpo package`: what a bundle holds, and its check on a device."""
