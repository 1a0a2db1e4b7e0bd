"""Camera RAW files, of which nothing but a thumbnail could be decoded: many look like TIFF files that hold one."""

from __future__ import annotations

import os
import re

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from drhn_cli.errors import AnyPath, ImageError

_RAW_NAME = re.compile(
    rb"\.(3fr|arw|cr[23w]|dcr|dng|erf|iiq|kdc|mef|mos|mrw|nef|nrw|orf|pef|raf|raw|rw[2l]|sr[2fw]|x3f)$", re.IGNORECASE
)
_CR2_MARK = b"CR\x02"  # from byte 8 on
_NEW_SUBFILE_TYPE = 254  # bit 0: a smaller version of another picture in the file
_DNG_VERSION = 50706


def refuse_raw(path: AnyPath | None, prefix: bytes) -> None:
    """Refuse what is a RAW file by its name or its first 16 bytes.

    Raises:
        ImageError: it is one.
    """
    if prefix[8:11] == _CR2_MARK or (path is not None and _RAW_NAME.search(os.fsencode(path))):
        raise _refusal(path)


def refuse_thumbnail(path: AnyPath | None, picture: Image.Image) -> None:
    """Refuse a TIFF file that is a RAW file, or begins with a thumbnail as RAW files do, whatever its name.

    Raises:
        ImageError: it is one.

    Source: TIFF 6.0 and Adobe's DNG specification (the tags).
    """
    if isinstance(picture, TiffImageFile):
        tags = picture.tag_v2
        kind = tags.get(_NEW_SUBFILE_TYPE, 0)
        if _DNG_VERSION in tags or (isinstance(kind, int) and kind & 1):
            raise _refusal(path)


def _refusal(path: AnyPath | None) -> ImageError:
    hint = "export it as JPEG, PNG or TIFF from a program that develops it"
    return ImageError("a camera's RAW file, which is not decoded", path=path, hint=hint)
