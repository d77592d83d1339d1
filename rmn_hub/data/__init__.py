"""Data: sets of labelled faces, read from the forms in which they are published."""
