"""The threads of numpy's matrix products."""

from __future__ import annotations

import ctypes
from importlib import import_module

_SETTERS = ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads")


def use_one_thread() -> bool:
    """Have OpenBLAS multiply in the thread that asks for it, through the rest of the process.

    Its own threads spin for a while after each product, and products that are asked for at once wait for each other.
    Asking numpy's extension module for the function finds the OpenBLAS that it is linked with.

    Returns:
        Whether that is so now; False where numpy has another BLAS, and nothing has changed there.

    Source: https://www.openmathlib.org/OpenBLAS/docs/runtime_variables; the names are those of numpy's wheels first.
    """
    try:
        library = ctypes.CDLL(import_module("numpy._core._multiarray_umath").__file__)
    except OSError:
        return False
    for name in _SETTERS:
        setter = getattr(library, name, None)
        if setter is not None:
            setter(1)
            return True
    return False
