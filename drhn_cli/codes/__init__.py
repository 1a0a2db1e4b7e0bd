"""Packed binary codes, and the file that keeps them with the paths of their pictures.

Read ``pack`` first (bits and bytes), then ``entries`` (paths and stamps of the pictures), ``manifest`` (what made the
codes) and ``layout`` (the bytes of the file). ``reader`` maps a file, ``writer`` replaces one.
"""
