"""An S3 store over HTTP on loopback that checks every signature, and misbehaves when told to.

Signatures are checked as the service does: version 4, in the header or in the query. Source: AWS
"Authenticating Requests (AWS Signature Version 4)", and by trial against botocore's signer.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

from simulators.sigv4 import EMPTY, Signed, signature

KEY, SECRET = "AKIAEXAMPLE", "s3cr3t/example+key"


@dataclass
class Asked:
    """One request, and what was sent for it."""

    method: str
    key: str
    query: dict
    range: str = ""
    status: int = 0
    sent: int = 0
    headers: dict = field(default_factory=dict)


@dataclass
class Upload:
    key: str
    parts: dict = field(default_factory=dict)


class S3:
    """One store with one bucket.

    Attributes:
        objects: What is in the bucket, by key.
        uploads: Multipart uploads that are neither complete nor abandoned.
        asked: Every request.
        faults: Called with each request before it is answered; a tuple of status and code that it
            returns is the answer.
        readers: Whether the key may only read; ``lists`` whether missing objects are told as such.
        anonymous: Whether requests without a signature may read.
        rate: Bytes a second of each answer; 0 is no limit.
    """

    def __init__(self, bucket="models", *, region="us-east-1", anonymous=False):
        self.bucket, self.region, self.anonymous = bucket, region, anonymous
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, Upload] = {}
        self.asked: list[Asked] = []
        self.faults: Callable[[Asked], tuple[int, str] | None] = lambda _: None
        self.readers, self.lists, self.rate = False, True, 0
        self.keys = {KEY: SECRET}
        self.lock = threading.Lock()
        self.held = threading.Event()
        self.held.set()
        simulator = self

        class Handler(_Handler):
            s3 = simulator

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.held.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def put(self, content: bytes, prefix="") -> str:
        """Puts a blob under its digest and returns the digest."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.objects[self.name(sha256, prefix)] = content
        return sha256

    @staticmethod
    def name(sha256, prefix=""):
        return f"{prefix and prefix + '/'}sha256/{sha256[:2]}/{sha256}"

    def sent(self, sha256, prefix=""):
        """Returns how many bytes of a blob were sent."""
        name = self.name(sha256, prefix)
        with self.lock:
            return sum(a.sent for a in self.asked if a.key == name and a.status in (200, 206))

    def methods(self, key=None):
        with self.lock:
            return [a.method for a in self.asked if key in (None, a.key)]


class _Refused(Exception):
    def __init__(self, status, code):
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    s3: S3

    def handle(self):
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def log_message(self, *_):
        pass

    def _do(self):
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            # Whoever sent it is gone: half an object is none.
            self.close_connection = True
            return
        parts = urlsplit(self.path)
        place = unquote(parts.path).lstrip("/")
        host = self.headers.get("Host", "")
        if not host.startswith(f"{self.s3.bucket}."):
            bucket, _, key = place.partition("/")
        else:
            bucket, key = self.s3.bucket, place
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        asked = Asked(self.command, key, query, self.headers.get("Range", ""))
        asked.headers = {name.lower(): value for name, value in self.headers.items()}
        with self.s3.lock:
            self.s3.asked.append(asked)
        try:
            if (fault := self.s3.faults(asked)) is not None:
                raise _Refused(*fault)
            self._check(asked, parts, body)
            if bucket != self.s3.bucket:
                raise _Refused(404, "NoSuchBucket")
            getattr(self, f"_{self.command.lower()}")(asked, body)
        except _Refused as refused:
            self._answer(asked, refused.status, _error(refused.code))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _do

    def _check(self, asked, parts, body):
        signed = Signed.of(self.command, parts.path, parts.query, self.headers, body)
        if signed is None:
            if self.s3.anonymous and self.command in ("GET", "HEAD"):
                return
            raise _Refused(403, "AccessDenied")
        if signed.access not in self.s3.keys:
            raise _Refused(403, "InvalidAccessKeyId")
        if signed.region != self.s3.region:
            raise _Refused(400, "AuthorizationHeaderMalformed")
        if signed.token:
            raise _Refused(403, "InvalidToken")
        age = datetime.now(UTC) - signed.at
        if abs(age) > timedelta(minutes=15) or age.total_seconds() > signed.expires_s:
            raise _Refused(403, "RequestTimeTooSkewed")
        if signed.payload not in ("UNSIGNED-PAYLOAD", hashlib.sha256(body).hexdigest()):
            raise _Refused(400, "XAmzContentSHA256Mismatch")
        if signature(signed, self.s3.keys[signed.access]) != signed.signature:
            raise _Refused(403, "SignatureDoesNotMatch")
        if self.s3.readers and self.command not in ("GET", "HEAD"):
            raise _Refused(403, "AccessDenied")

    def _get(self, asked, _body):
        content = self.s3.objects.get(asked.key)
        if content is None:
            raise _Refused(*((404, "NoSuchKey") if self.s3.lists else (403, "AccessDenied")))
        headers = {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", asked.range):
            start, end = int(found[1]), min(len(content), int(found[2] or len(content)) + 1)
            if start >= len(content):
                raise _Refused(416, "InvalidRange")
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            self._answer(asked, 206, content[start:end], headers)
        else:
            self._answer(asked, 200, content, headers)

    _head = _get

    def _put(self, asked, body):
        if "uploadId" in asked.query:
            with self.s3.lock:
                upload = self.s3.uploads.get(asked.query["uploadId"])
                if upload is None:
                    raise _Refused(404, "NoSuchUpload")
                upload.parts[int(asked.query["partNumber"])] = body
        else:
            self.s3.objects[asked.key] = body
        self._answer(asked, 200, b"", {"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    def _post(self, asked, _body):
        if "uploads" in asked.query:
            with self.s3.lock:
                number = f"upload-{len(self.s3.asked)}"
                self.s3.uploads[number] = Upload(asked.key)
            names = f"<Bucket>{self.s3.bucket}</Bucket><Key>{asked.key}</Key>"
            text = f"{names}<UploadId>{number}</UploadId>"
            self._answer(asked, 200, _document("InitiateMultipartUploadResult", text))
            return
        with self.s3.lock:
            upload = self.s3.uploads.pop(asked.query["uploadId"], None)
            if upload is None:
                raise _Refused(404, "NoSuchUpload")
            parts = [upload.parts[number] for number in sorted(upload.parts)]
            self.s3.objects[asked.key] = b"".join(parts)
        text = f"<Key>{asked.key}</Key><ETag>&quot;x-{len(parts)}&quot;</ETag>"
        self._answer(asked, 200, _document("CompleteMultipartUploadResult", text))

    def _delete(self, asked, _body):
        with self.s3.lock:
            self.s3.uploads.pop(asked.query.get("uploadId", ""), None)
        self._answer(asked, 204, b"")

    def _answer(self, asked, status, body, headers=None):
        asked.status = status
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        step = max(1, self.s3.rate // 20) if self.s3.rate else len(body)
        for start in range(0, len(body), step or 1):
            self.s3.held.wait()
            self.wfile.write(body[start : start + step])
            asked.sent += len(body[start : start + step])
            if self.s3.rate:
                time.sleep(0.05)


def _document(name, text):
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}>{text}</{name}>'.encode()


def _error(code):
    return _document("Error", f"<Code>{code}</Code><Message>no</Message>")


__all__ = ["EMPTY", "KEY", "S3", "SECRET"]
