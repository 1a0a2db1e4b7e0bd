"""Packed binary codes: their file, exact search by Hamming distance, and the measures of retrieval."""
