"""From codes to neighbours.

Read ``hamming`` first (exact k nearest), then ``scan`` (the comparison of a chunk of codes, in C or numpy),
``asymmetric`` (real-valued queries), ``near_duplicates`` (groups instead of queries) and ``eight_forms`` (DCT
signs of turned and mirrored pictures).
"""
