"""A report for people: on a terminal, as Markdown, as one HTML file; pure functions of a record."""
