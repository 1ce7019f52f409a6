"""Which blocks go: exact programs, search, reasons."""
