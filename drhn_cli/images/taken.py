"""When a picture was taken, by its EXIF data."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from PIL import ExifTags, Image

# EXIF 2.32, section 4.6.5: ``YYYY:MM:DD HH:MM:SS``, of which cameras without a clock leave the digits blank or zero.
_DATE = re.compile(r"\s*(\d{4})[:/-](\d\d)[:/-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_FRACTION = re.compile(r"\s*(\d{1,9})")
_FIELDS = (
    (ExifTags.Base.DateTimeOriginal, ExifTags.Base.SubsecTimeOriginal),
    (ExifTags.Base.DateTimeDigitized, ExifTags.Base.SubsecTimeDigitized),
)
_FIRST, _LAST = 1800, 2261  # what 64 bits of nanoseconds hold, and no photograph is older


def find_taken_ns(picture: Image.Image) -> int | None:
    """Return when an opened picture was taken, by the clock of its camera, as nanoseconds since 1970 on that clock.

    None: it does not say. The zone is left out, because few cameras know it: pictures of one camera keep their order.
    """
    fields: dict[int, Any] = picture.getexif().get_ifd(ExifTags.IFD.Exif)
    for date_tag, fraction_tag in _FIELDS:
        match = _DATE.match(_text(fields.get(date_tag)))
        if match is None:
            continue
        try:
            year, month, day, hour, minute, second = map(int, match.groups())
            date = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:  # month 0, as of a camera whose clock was never set
            continue
        if _FIRST <= date.year <= _LAST:
            fraction = _FRACTION.match(_text(fields.get(fraction_tag)))
            nanoseconds = int(fraction[1].ljust(9, "0")) if fraction else 0
            return (date - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1) * 10**9 + nanoseconds
    return None


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else ""
