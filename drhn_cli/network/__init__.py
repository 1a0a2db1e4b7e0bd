"""The network: from pixels to activations and codes. Importing it does not import torch, except for ``drhn``.

Read ``config`` (the shape of a network and its layers), ``model`` (a trained network), ``integer`` (what it is deployed
as), ``encoder`` (a model that is ready to encode pictures: activations, thresholded into codes), then the backends:
``native_backend`` (C), ``numpy_backend`` and ``drhn`` (torch). ``quantize`` makes the integers of trained floats,
``pretrained`` reads trunks that others have trained, and ``closed_form`` fits a hash layer to their features.
"""
