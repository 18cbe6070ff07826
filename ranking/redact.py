"""Keeps secrets out of everything that leaves the process."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MASK = "***"
_PARTS = (
    "password|passwd|passphrase|pwd|secret|token|key|credential|signature|authorization|cookie"
    "|connection.?string|odbc_connect"
)
_WHOLE = "(?<![a-z])(?:auth|sas|sig)(?![a-z])"  # parts of other words: author, design
_SECRET = rf"(?:{_PARTS}|{_WHOLE})"
_SECRET_NAME = re.compile(_SECRET, re.IGNORECASE)
# In JSON or behind a comma, with a value of its own; not a directory such as sort_key=1.
_ENTRY = re.compile(rf"(?:^|[{{,\"'\s])[\w.-]*{_SECRET}[\w-]*[\"']?\s*[:=](?!\s*\{{|{re.escape(MASK)})", re.IGNORECASE)
# A password may hold a slash, unless it looks like the port in host:80/; that of a database may do even that.
_USER_INFO = re.compile(r"(?<=://)(?:[^/\s]+|[^:/\s]*:(?!\d+/)\S+)(?=@)")
_OF_DATABASE = re.compile(r"(sql(?:\+\w+)?://)[^:/@\s]*:\S+(?=@)")
_QUERY = re.compile(rf"([?&;#][\w.%-]*{_SECRET}[\w.%-]*=)[^&\s]+", re.IGNORECASE)


def redact_text(text: str) -> str:
    """The text with the credentials of its URLs and connection strings masked.

    Those are `user:password@`, and the values of parameters with a secret name, such as `?sig=` or `;AccountKey=`.
    """
    text = _OF_DATABASE.sub(rf"\1{MASK}", _USER_INFO.sub(MASK, text))
    return _QUERY.sub(rf"\1{MASK}", text)


def redact_words(words: Sequence[str]) -> list[str]:
    """The words of a command line with the values of secret options masked, and every value that holds a secret."""
    shown, after_secret = list[str](), False
    for word in words:
        name, equals, text = word.partition("=") if word.startswith("--") else ("", "", word)
        value, secret = redact_text(text), bool(_SECRET_NAME.search(name))
        masked = (secret and equals) or (after_secret and not name) or _ENTRY.search(value)
        shown.append(f"{name}{equals}{MASK if masked else value}")
        after_secret = secret and not equals
    return shown


def redact(value: Any, name: str = "") -> Any:
    """A copy with every secret replaced by `***`, whatever it is nested in.

    Args:
        value: Mappings and sequences are walked; the URLs inside strings lose their credentials.
        name: Key of the value. What stands under a secret one (it contains password, token, key and the like, or is
            auth, sas or sig) is masked as a whole, unless it is empty or a switch.
    """
    if _SECRET_NAME.search(name) and value not in (None, "", True, False):
        return MASK
    if isinstance(value, Mapping):
        return {str(key): redact(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value
