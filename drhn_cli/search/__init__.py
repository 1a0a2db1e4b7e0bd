"""From codes to neighbours.

Read ``hamming`` first (exact k nearest), then ``scan`` (what it does with each chunk of codes), ``asymmetric`` (queries
that keep their real values), ``near_duplicates`` (groups instead of queries) and ``cuda`` (the same search on a GPU).
"""
