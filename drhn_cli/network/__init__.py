"""The network: from pixels to activations and codes. Imported without torch.

Read ``config`` (the shape of a network, its layers), ``model`` (a trained one), ``encoder`` (what encodes pictures) and
the backends that it chooses from, ``numpy_backend`` and ``drhn``.
"""
