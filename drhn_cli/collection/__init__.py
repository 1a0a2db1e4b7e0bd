"""A folder of pictures and its code file.

Read ``sources`` first (which pictures there are), then ``plan`` (what an update keeps, moves, hashes and removes),
``update`` (which carries that out), ``merge`` (several code files become one) and ``exchange`` (other formats).
"""
