"""From paths to pixels: find pictures, decode them whatever their format, fit them to the network's input."""
