"""Answers drawn as a page or a picture: data in, bytes out."""
