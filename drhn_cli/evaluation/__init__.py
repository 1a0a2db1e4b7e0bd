"""How well a model retrieves: labelled pictures, metrics, plots."""
