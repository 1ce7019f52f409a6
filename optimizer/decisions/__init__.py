"""What a classifier decides, how near its boundary, and inputs that turn it."""
