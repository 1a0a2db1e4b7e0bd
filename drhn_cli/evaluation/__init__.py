"""How well a model retrieves.

Read ``data`` first (labelled pictures, and how they are split), then ``metrics`` (average precision and the others),
``evaluate`` (which measures a model with them) and ``plot``.
"""
