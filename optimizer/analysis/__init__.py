"""How alike blocks are and what their removal does."""
