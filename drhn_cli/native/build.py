"""The hatchling build hook that compiles the library in C when the package is built or installed.

Without a C compiler the package is pure Python, and numpy does what the library would do.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.builders.wheel import WheelBuilderConfig
from packaging.tags import sys_tags

_SYSTEM = os.name
SOURCES, LIBRARY = ("drhn_cli/native/scan.c", "drhn_cli/native/int8.c"), "drhn_cli/native/libdrhn.so"
FLAGS = ("-std=c11", "-O3", "-shared", "-fPIC")  # no -march: the processor is detected at run time


class NativeBuildHook(BuildHookInterface[WheelBuilderConfig]):
    """Adds the library to a wheel, or puts it beside its source for an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before hatchling packs a wheel; ``build_data`` gets the library and the tag of this platform."""
        self._folder = tempfile.TemporaryDirectory()
        editable = version == "editable"
        library = Path(self.root, LIBRARY) if editable else Path(self._folder.name, "library")
        if failure := compile_library([Path(self.root, source) for source in SOURCES], library):
            self.app.display_warning(f"without the library in C, numpy alone encodes and searches: {failure}")
        elif not editable:
            build_data["force_include"][str(library)] = LIBRARY
            build_data["pure_python"] = False
            # The tag of exactly this platform: the library is not built against an old glibc, as manylinux requires.
            platforms = (tag.platform for tag in sys_tags() if not tag.platform.startswith(("manylinux", "musllinux")))
            build_data["tag"] = f"py3-none-{next(platforms)}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Clean up after hatchling has packed the wheel."""
        self._folder.cleanup()


def compile_library(sources: Sequence[Path], library: Path, flags: Sequence[str] = FLAGS) -> str | None:
    """Compile with ``CC``, the compiler that built this Python, or any other; return why it failed, or None."""
    compiler = _find_compiler()
    unfinished = library.with_name(library.name + ".tmp")
    try:
        library.unlink(missing_ok=True)  # it may be of older sources
        if compiler is None:
            return "there is no C compiler"
        command = [*compiler, *flags, *map(str, sources), "-o", str(unfinished)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")  # noqa: S603
        if done.returncode:
            errors = (line for line in done.stderr.splitlines() if "error" in line)
            return f"{compiler[0]}: {next(errors, f'status {done.returncode}')}"
        unfinished.replace(library)
    except OSError as error:
        return str(error)
    return None


def _find_compiler() -> list[str] | None:
    """Return the command and its options, or None."""
    if _SYSTEM == "nt":  # the sources are written for gcc and clang
        return None
    named = os.environ.get("CC")
    for command in [named] if named else [sysconfig.get_config_var("CC"), "cc", "gcc", "clang"]:
        words = shlex.split(command or "")
        if words and shutil.which(words[0]):
            return words
    return None
