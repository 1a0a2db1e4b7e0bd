"""A collection of pictures and its code file.

``update`` brings a code file up to date, in this order: ``stored`` (what the file holds), ``sources`` (what there is
now), ``plan`` (what becomes of each picture), and then the pictures are hashed and the file is written. ``options`` has
what can be asked for. ``merge`` joins files that were made apart, ``exchange`` exports and imports codes.
"""
