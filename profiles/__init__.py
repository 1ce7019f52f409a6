"""Know a device: describe it and measure models on it."""
