"""When a certificate expires. The standard library tells it of the other side's alone, not of one's own."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# Tags of ASN.1, in the encoding DER (ITU-T X.690).
_VERSION, _UTC_TIME = 0xA0, 0x17


def expiry_of(pem: bytes) -> float | None:
    """Return when the first of the certificates in a file expires, in seconds since 1970 UTC; None where none is named.

    Args:
        pem: of a service, with those between it and who signed it: connections fail from the first that expires.

    Raises:
        ValueError: one of them is damaged.
    """
    blocks = _PEM.findall(pem.decode("ascii", "replace"))
    return min((_not_after(ssl.PEM_cert_to_DER_cert(block)) for block in blocks), default=None)


def _not_after(certificate: bytes) -> float:
    """Return the end of the validity, RFC 5280, section 4.1."""
    ((_, whole), *_) = _elements(certificate)
    ((_, signed), *_) = _elements(whole)
    fields = [content for tag, content in _elements(signed) if tag != _VERSION]
    # After serial number, signature algorithm and issuer.
    (_, (tag, time)) = _elements(fields[3])
    text = time.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _elements(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each element of a sequence."""
    at = 0
    while at < len(encoded):
        if len(encoded) < at + 2:
            raise ValueError("the certificate is cut off")
        tag, length, at = encoded[at], encoded[at + 1], at + 2
        if length >= 0x80:
            size = length - 0x80
            length, at = int.from_bytes(encoded[at : at + size]), at + size
        if len(encoded) < at + length:
            raise ValueError("the certificate is cut off")
        yield tag, encoded[at : at + length]
        at += length
