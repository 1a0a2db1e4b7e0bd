"""A collection of pictures and its code file.

``update`` brings a code file up to date: ``stored`` reads the file, ``sources`` finds the pictures, ``plan`` decides
what to do with each; then pictures are hashed and the file is written. ``plan`` also has the data classes passed
between these steps. ``merge`` merges code files, ``exchange`` exports and imports codes.
"""
