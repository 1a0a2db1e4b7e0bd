"""The network: its layers, its losses, its training, its weights file, and from pixels to codes."""
