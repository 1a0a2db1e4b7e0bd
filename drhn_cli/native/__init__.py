"""C, and how it is built. Nothing depends on its being there: numpy does the same, slower."""
