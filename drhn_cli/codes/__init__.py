"""Packed binary codes and the file that holds them, which faiss opens as it is.

Read ``pack`` first (bits in bytes), then ``layout`` (the bytes of the file), ``entries`` (what is known of each
picture), ``manifest`` (what made the codes), ``reader`` and ``writer``.
"""
