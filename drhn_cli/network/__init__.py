"""The network: from pixels to activations and codes. Importing it does not import torch, except for ``drhn``.

Read ``config`` (the shape of a network and its layers), ``model`` (a trained network), ``encoder`` (a model that is
ready to encode pictures: activations, thresholded into codes), then the two backends, ``numpy_backend`` and ``drhn``
(torch). ``pretrained`` reads trunks that others have trained, and ``closed_form`` fits a hash layer to their features.
``copy_code`` tells copies of one picture from pictures that are merely alike.
"""
