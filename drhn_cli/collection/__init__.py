"""A collection of pictures and its code file.

``update`` brings a code file up to date: ``stored`` reads what it holds, ``sources`` finds the pictures that there are,
``plan`` decides what becomes of each; then pictures are hashed and the file is written. ``plan`` also has the values
that pass between these steps. ``merge`` joins files that were made apart, ``exchange`` exports and imports codes.
"""
