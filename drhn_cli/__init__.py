"""drhn finds pictures by content, with short binary codes from a Deep Residual Hashing Network.

The Python interface, each name imported when it is asked for:

- ``load_model`` reads a ``Model``; with it an ``Encoder`` makes codes of pictures, which ``load_image`` reads.
- ``update_collection`` makes or updates the ``CodeFile`` of a folder, with ``HashOptions``.
- ``open_gallery`` opens a code file or a table; ``answer_queries`` looks up each ``Query`` there, with
  ``QueryOptions``. ``find_copies`` groups copies, with ``CopyOptions``, and ``judge_sources`` tells whether two
  pictures are copies; ``find_duplicates`` and ``compare_pictures`` go by codes alone.
- ``evaluate_model`` measures retrieval on labelled pictures. Errors are ``DrhnError`` or a kind of it.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "CodeFile": "codes.reader",
    "CopyOptions": "retrieval.copies",
    "DrhnError": "errors",
    "Encoder": "network.encoder",
    "HashOptions": "collection.plan",
    "Model": "network.model",
    "Query": "retrieval.query",
    "QueryOptions": "retrieval.query",
    "answer_queries": "retrieval.query",
    "compare_pictures": "retrieval.duplicates",
    "evaluate_model": "evaluation.evaluate",
    "find_copies": "retrieval.copies",
    "find_duplicates": "retrieval.duplicates",
    "update_collection": "collection.update",
    "judge_sources": "retrieval.pairs",
    "load_image": "images.load",
    "load_model": "network.model",
    "open_gallery": "retrieval.gallery",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
