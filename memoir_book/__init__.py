"""The machinery of the book: runs, pages, figures, checks. Never needed to understand the model."""
