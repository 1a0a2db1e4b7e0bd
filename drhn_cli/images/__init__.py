"""From paths to pixels: find pictures, read and decode them whatever their format, fit them to the network's input.

Read ``source`` first: an ``ImageFile`` is a picture, on disk or in a tar archive (``archive``), and ``read`` gives its
bytes. ``find`` looks for pictures, and leaves out what globs exclude; ``formats`` says which count. ``decode`` makes
upright RGB of the bytes, by the rules of ``rendering``, ``preprocess`` fits that to a square, and ``load`` does both
for many pictures in threads. ``taken`` reads from EXIF data when a picture was taken.
"""
