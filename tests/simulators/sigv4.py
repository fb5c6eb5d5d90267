"""AWS Signature Version 4 as a server checks it: in the header, or in the query of an address."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote

EMPTY = hashlib.sha256(b"").hexdigest()
_HEADER = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})"
)


@dataclass(frozen=True)
class Signed:
    """What a request says of its own signature."""

    access: str
    scope: str
    region: str
    at: datetime
    stamp: str
    expires_s: float
    payload: str
    request: str
    signature: str
    token: str = ""

    @classmethod
    def of(cls, method, path, query, headers, body):
        """Returns it; None of a request without a signature."""
        asked = dict(parse_qsl(query, keep_blank_values=True))
        if "X-Amz-Signature" in asked:
            credential = asked["X-Amz-Credential"]
            names, given = asked["X-Amz-SignedHeaders"], asked["X-Amz-Signature"]
            stamp, expires_s = asked["X-Amz-Date"], float(asked["X-Amz-Expires"])
            payload, token = "UNSIGNED-PAYLOAD", asked.get("X-Amz-Security-Token", "")
        elif found := _HEADER.fullmatch(headers.get("Authorization", "")):
            credential, names, given = found.groups()
            stamp, expires_s = headers["x-amz-date"], 900.0
            payload = headers.get("x-amz-content-sha256", hashlib.sha256(body).hexdigest())
            token = headers.get("x-amz-security-token", "")
        else:
            return None
        access, _, scope = credential.partition("/")
        lines = [
            method,
            path,
            _canonical(query),
            *(f"{name}:{headers[name].strip()}" for name in names.split(";")),
            "",
            names,
            payload,
        ]
        at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return cls(
            access, scope, scope.split("/")[1], at, stamp, expires_s, payload, "\n".join(lines),
            given, token,
        )  # fmt: skip


def signature(signed, secret):
    """Returns the signature that the request should have."""
    request = hashlib.sha256(signed.request.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", signed.stamp, signed.scope, request])
    key = b"AWS4" + secret.encode()
    for part in signed.scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def _canonical(query):
    pairs = [p for p in parse_qsl(query, keep_blank_values=True) if p[0] != "X-Amz-Signature"]
    return "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in sorted(pairs))


def _quoted(text):
    return quote(text, safe="-_.~")
