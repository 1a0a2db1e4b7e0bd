"""A folder of pictures and its code file: find, hash, update, merge, export, import."""
