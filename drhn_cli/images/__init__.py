"""From paths to pixels.

Read ``source`` first (a picture on disk or in an archive, and its bytes), then ``find`` (the pictures of folders and
archives; ``globs`` and ``archive`` serve it), ``formats`` and ``decode`` (any format becomes upright 8-bit RGB),
``preprocess`` (pixels fitted to a network's input) and ``load`` (many pictures, decoded by threads).
"""
