"""Keeps secrets out of everything that leaves the process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
_SECRET = r"password|passwd|secret|token|key|credential|signature"
_SECRET_NAME = re.compile(_SECRET, re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^/\s]+(?=@)")
_QUERY = re.compile(rf"([?&][^=&\s]*(?:{_SECRET})[^=&\s]*=)[^&\s]+", re.IGNORECASE)


def redact_text(text: str) -> str:
    """The text with the credentials of its URLs masked: `user:password@` and secret query parameters."""
    return _QUERY.sub(rf"\1{MASK}", _USER_INFO.sub(MASK, text))


def redact(value: Any, name: str = "") -> Any:
    """A copy with every secret replaced by `***`, whatever it is nested in.

    Args:
        value: Mappings and sequences are walked; the URLs inside strings lose their credentials.
        name: Key of the value. What stands under a key that contains password, secret, token, key, credential or
            signature is masked as a whole, unless it is empty or a switch.
    """
    if _SECRET_NAME.search(name) and value not in (None, "", True, False):
        return MASK
    if isinstance(value, Mapping):
        return {str(key): redact(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value
