"""An S3 server for tests that does as it is told: small, in memory, with faults by operation.

Standard library only. Speaks the path style; checks no signature.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

__all__ = ["Fault", "ScriptedS3", "StoredObject"]


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests of an operation.

    kind: ``error`` (answer with code and status, nothing done), ``drop`` (nothing done, connection closed),
    ``lose`` (done, connection closed without an answer), ``cut`` (half of the body, then closed), ``short`` (half of
    the body, well-formed), ``hang`` (no answer until the server stops), ``error in 200`` (nothing done), ``frame``
    (stores more than it was given), ``replace`` (done, then another writer comes), ``gone`` (answers 404
    NoSuchUpload, nothing done).
    """

    operation: str
    kind: str
    times: int = 1
    code: str = "InternalError"
    status: int = 500
    message: str = "we are sorry"
    skip: int = 0


@dataclass
class StoredObject:
    """An object; another writer's, unless its metadata say otherwise."""

    data: bytes
    metadata: dict[str, str] = field(default_factory=lambda: {"kbr-upload": "another"})
    modified_at: float = field(default_factory=time.time)
    storage_class: str = ""
    restored: str = ""  # as the header x-amz-restore
    options: dict[str, str] = field(default_factory=dict)  # how it is kept, as headers


class ScriptedS3:
    """Context manager; ``requests`` lists the operations as they came."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.reset()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def reset(self) -> None:
        """As at the start: nothing stored, no fault."""
        self.conditions = "honour"  # or "ignore", "refuse"
        self.complete_conditions = ""  # as above, where completions differ from puts
        self.page_size = 1000
        self.clock_off_s = 0.0
        self.last_first = False  # lists in the wrong order
        self.forgets_tokens = False
        self.ignores_prefixes = False  # in listings of uploads
        self.ignores_options = False  # takes what objects are to be kept like, and does nothing of it
        self.refused_headers: dict[str, tuple[str, int, str]] = {}  # by the beginning of a name: code, status, message
        self.mangles = False  # stores other bytes, as many
        self.wants_md5 = False  # as buckets with a default retention do
        self.denied: frozenset[str] = frozenset()  # operations
        self.token_ended = ""  # a session token that has expired
        self.buckets = {"bucket"}
        self.objects: dict[str, StoredObject] = {}
        self.uploads: dict[str, tuple[str, dict[str, str], dict[int, bytes], dict[str, str]]] = {}
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.faults: list[Fault] = []
        self._next_upload = 0

    def speak_tls(self, context: ssl.SSLContext) -> None:
        """From now on; before the first connection."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def fail(self, operation: str, kind: str, **facts: object) -> None:
        """Arm a fault."""
        self.faults.append(Fault(operation, kind, **facts))  # type: ignore[arg-type]

    def count(self, operation: str) -> int:
        """How many requests of an operation came."""
        return self.requests.count(operation)

    def __enter__(self) -> ScriptedS3:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def take_fault(self, operation: str) -> Fault | None:
        """The armed fault for a request, if there is one."""
        with self.lock:
            for fault in self.faults:
                if fault.operation in (operation, "any") and fault.times > 0:
                    if fault.skip:
                        fault.skip -= 1
                        return None
                    fault.times -= 1
                    return fault
        return None

    def new_upload_id(self) -> str:
        with self.lock:
            self._next_upload += 1
            return f"upload-{self._next_upload}"


def _iso(moment: float) -> str:
    """As S3 gives it in listings: whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(moment))


def _operation(method: str, key: str, query: dict[str, list[str]]) -> str:
    if method == "PUT":
        return "upload_part" if "partNumber" in query else "put"
    if method == "POST":
        return "create" if "uploads" in query else "complete"
    if method == "DELETE":
        return "abort" if "uploadId" in query else "delete"
    if method == "GET" and "uploads" in query:
        return "list_uploads"
    if method == "HEAD":
        return "head"
    return "get" if key else "list"


def _handler(s3: ScriptedS3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_arguments: object) -> None:
            pass

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(time.time() + s3.clock_off_s, usegmt=True)

        def handle_any(self) -> None:
            url = urlsplit(self.path)
            bucket, _, key = unquote(url.path).lstrip("/").partition("/")
            query = parse_qs(url.query, keep_blank_values=True)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            operation = _operation(self.command, key, query)
            with s3.lock:
                s3.requests.append(operation)
                s3.headers.append({name.lower(): value for name, value in self.headers.items()})
            fault = s3.take_fault(operation)
            kind = fault.kind if fault else ""
            if fault and kind == "error":
                self.refuse(fault.code, fault.status, fault.message)
            elif kind == "gone":
                self.refuse("NoSuchUpload", 404)
            elif kind == "drop":
                self.close_connection = True
            elif kind == "hang":
                s3.stopping.wait(30)
                self.close_connection = True
            elif fault and kind == "error in 200":
                self.answer(200, self.error(fault.code, fault.message))
            elif refusal := self.refusal(operation, body):
                self.refuse(*refusal)
            elif bucket not in s3.buckets:
                self.refuse("NoSuchBucket", 404)
            else:
                getattr(self, f"do_{operation}")(key, query, body, kind)
                if kind == "replace":
                    s3.objects[key] = StoredObject(b"another's")

        do_PUT = do_POST = do_DELETE = do_HEAD = do_GET = handle_any

        # -- operations -------------------------------------------------------------------

        def do_put(self, key: str, query: dict[str, list[str]], body: bytes, kind: str) -> None:
            if self.refused_condition(key, s3.conditions):
                return
            framed = b"5\r\n" + body if kind == "frame" else body
            if s3.mangles:
                framed = bytes(len(body))
            s3.objects[key] = StoredObject(framed, self.metadata(), options=self.kept())
            self.answer(200, b"", {"ETag": '"e"'}, lose=kind == "lose")

        def do_create(self, key: str, query: dict[str, list[str]], body: bytes, kind: str) -> None:
            upload_id = s3.new_upload_id()
            s3.uploads[upload_id] = (key, self.metadata(), {}, self.kept())
            xml = f"<InitiateMultipartUploadResult><UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>"
            self.answer(200, xml.encode(), lose=kind == "lose")

        def do_upload_part(self, key: str, query: dict[str, list[str]], body: bytes, kind: str) -> None:
            upload_id, number = query["uploadId"][0], int(query["partNumber"][0])
            if upload_id not in s3.uploads:
                self.refuse("NoSuchUpload", 404)
                return
            if self.has_other_key(s3.uploads[upload_id][3]):
                return
            s3.uploads[upload_id][2][number] = body
            self.answer(200, b"", {"ETag": f'"part-{number}"'}, lose=kind == "lose")

        def do_complete(self, key: str, query: dict[str, list[str]], body: bytes, kind: str) -> None:
            upload_id = query["uploadId"][0]
            if upload_id not in s3.uploads:
                self.refuse("NoSuchUpload", 404)
                return
            if self.refused_condition(key, s3.complete_conditions or s3.conditions):
                return
            _key, metadata, parts, options = s3.uploads.pop(upload_id)
            numbers = [int(node.text or "") for node in ET.fromstring(body).iter() if node.tag.endswith("PartNumber")]
            s3.objects[key] = StoredObject(b"".join(parts[number] for number in numbers), metadata, options=options)
            xml = "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
            self.answer(200, xml.encode(), lose=kind == "lose")

        def do_abort(self, key: str, query: dict[str, list[str]], body: bytes, kind: str) -> None:
            found = s3.uploads.pop(query["uploadId"][0], None)
            if found is None:
                self.refuse("NoSuchUpload", 404)
            else:
                self.answer(204, b"", lose=kind == "lose")

        def do_delete(self, key: str, query: dict[str, list[str]], body: bytes, kind: str) -> None:
            if s3.objects.pop(key, None) is None:
                self.refuse("NoSuchKey", 404)
            else:
                self.answer(204, b"", lose=kind == "lose")

        def do_head(self, key: str, query: dict[str, list[str]], body: bytes, kind: str) -> None:
            found = s3.objects.get(key)
            if found is None:
                self.answer(404, b"")
            elif not self.has_other_key(found.options):
                self.answer(200, found.data, self.facts(found), lose=kind == "lose")

        def do_get(self, key: str, query: dict[str, list[str]], body: bytes, kind: str) -> None:
            found = s3.objects.get(key)
            if found is None:
                self.refuse("NoSuchKey", 404)
                return
            if self.has_other_key(found.options):
                return
            data, status = found.data, 200
            if wanted := self.headers.get("Range"):
                first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
                if first >= len(data):
                    self.refuse("InvalidRange", 416)
                    return
                data, status = data[first : last + 1], 206
            if kind == "short":
                data = data[: len(data) // 2]
            self.answer(status, data, self.facts(found), lose=kind == "lose", cut=kind == "cut")

        def do_list_uploads(self, key: str, query: dict[str, list[str]], body: bytes, kind: str) -> None:
            prefix = "" if s3.ignores_prefixes else query.get("prefix", [""])[0]
            after = (query.get("key-marker", [""])[0], query.get("upload-id-marker", [""])[0])
            found = sorted((name, upload) for upload, (name, *_) in s3.uploads.items() if name.startswith(prefix))
            found = [one for one in found if one > after]
            page, more = found[: s3.page_size], len(found) > s3.page_size
            entries = "".join(
                f"<Upload><Key>{escape(name)}</Key><UploadId>{upload}</UploadId></Upload>" for name, upload in page
            )
            markers = (
                f"<NextKeyMarker>{escape(page[-1][0])}</NextKeyMarker><NextUploadIdMarker>{page[-1][1]}</NextUploadIdMarker>"
                if more and not s3.forgets_tokens
                else ""
            )
            xml = (
                f"<ListMultipartUploadsResult><IsTruncated>{str(more).lower()}</IsTruncated>{markers}{entries}"
                f"</ListMultipartUploadsResult>"
            )
            self.answer(200, xml.encode(), lose=kind == "lose")

        def do_list(self, key: str, query: dict[str, list[str]], body: bytes, kind: str) -> None:
            prefix = query.get("prefix", [""])[0]
            after = query.get("continuation-token", [""])[0]
            names = sorted((name for name in s3.objects if name.startswith(prefix)), reverse=s3.last_first)
            start = names.index(after) + 1 if after else 0
            page = names[start : start + s3.page_size]
            more = start + s3.page_size < len(names)
            entries = "".join(
                f"<Contents><Key>{escape(quote(name))}</Key><Size>{len(s3.objects[name].data)}</Size>"
                f"<LastModified>{_iso(s3.objects[name].modified_at)}</LastModified>"
                f"<StorageClass>{s3.objects[name].storage_class or 'STANDARD'}</StorageClass></Contents>"
                for name in page
            )
            token = (
                f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"
                if more and not s3.forgets_tokens
                else ""
            )
            xml = (
                f"<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
                f"{token}{entries}</ListBucketResult>"
            )
            self.answer(200, xml.encode(), lose=kind == "lose")

        def refusal(self, operation: str, body: bytes) -> tuple[str, int, str] | None:
            """Why a request is not done: a right, an option, a checksum."""
            if operation in s3.denied:
                return "AccessDenied", 403, "Access Denied."
            if s3.token_ended and self.headers.get("x-amz-security-token") == s3.token_ended:
                return "ExpiredToken", 400, "The provided token has expired."
            for start, refusal in s3.refused_headers.items():
                if any(name.lower().startswith(start) for name in self.headers):
                    return refusal
            sent = self.headers.get("Content-MD5")
            if sent is not None and sent != base64.b64encode(hashlib.md5(body).digest()).decode():
                return "BadDigest", 400, "the checksum is another one"
            if operation in ("put", "upload_part") and sent is None and s3.wants_md5:
                words = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"
                return "InvalidRequest", 400, words
            return None

        def kept(self) -> dict[str, str]:
            """What of the request says how the object is to be kept, as a HEAD shows it."""
            if s3.ignores_options:
                return {}
            kept = {
                name: value
                for name in (
                    "x-amz-server-side-encryption",
                    "x-amz-server-side-encryption-aws-kms-key-id",
                    "x-amz-server-side-encryption-customer-algorithm",
                    "x-amz-server-side-encryption-customer-key-MD5",
                    "x-amz-storage-class",
                    "x-amz-object-lock-mode",
                    "x-amz-object-lock-retain-until-date",
                )
                if (value := self.headers.get(name)) is not None
            }
            if tags := self.headers.get("x-amz-tagging"):
                kept["x-amz-tagging-count"] = str(len(parse_qs(tags, keep_blank_values=True)))
            return kept

        def has_other_key(self, options: dict[str, str]) -> bool:
            """Whether the request came without the customer's key that the object was begun with; it is refused then."""
            name = "x-amz-server-side-encryption-customer-key-MD5"
            if s3.ignores_options or options.get(name) == self.headers.get(name):
                return False
            words = "The object was stored using a form of Server Side Encryption. The correct parameters must be provided."
            self.refuse("InvalidRequest", 400, words)
            return True

        def refused_condition(self, key: str, conditions: str) -> bool:
            """Whether the request had a condition that ended it."""
            if not self.headers.get("If-None-Match") or conditions == "ignore":
                return False
            if conditions == "refuse":
                self.refuse("InvalidArgument", 400)
                return True
            if key in s3.objects:
                self.refuse("PreconditionFailed", 412)
                return True
            return False

        # -- answers ----------------------------------------------------------------------

        def metadata(self) -> dict[str, str]:
            start = "x-amz-meta-"
            return {
                name.lower()[len(start) :]: value
                for name, value in self.headers.items()
                if name.lower().startswith(start)
            }

        def facts(self, found: StoredObject) -> dict[str, str]:
            return {
                "Last-Modified": formatdate(found.modified_at, usegmt=True),
                **{f"x-amz-meta-{name}": value for name, value in found.metadata.items()},
                **({"x-amz-storage-class": found.storage_class} if found.storage_class else {}),
                **({"x-amz-restore": found.restored} if found.restored else {}),
                **found.options,
            }

        def refuse(self, code: str, status: int, message: str = "") -> None:
            self.answer(status, b"" if self.command == "HEAD" else self.error(code, message or code))

        def error(self, code: str, message: str) -> bytes:
            return f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>".encode()

        def answer(
            self,
            status: int,
            body: bytes,
            headers: dict[str, str] | None = None,
            *,
            lose: bool = False,
            cut: bool = False,
        ) -> None:
            if lose:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if cut else body)
            if cut:
                self.close_connection = True

    return Handler
