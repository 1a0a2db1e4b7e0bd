"""Answers as a page or a picture."""
