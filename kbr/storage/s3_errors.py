"""What S3 servers answer, told as kbr's errors. Pure: knows neither the library nor the store's logic."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from kbr.errors import (
    AccessDenied,
    ConfigError,
    KbrError,
    ObjectMissing,
    PreconditionFailed,
    StorageError,
    StoreFull,
    StoreUnavailable,
)
from kbr.storage.s3_refusals import needed_rights, refused_options

__all__ = [
    "BodyTooLarge",
    "FailureKind",
    "Place",
    "S3Failure",
    "is_missing",
    "is_refused_condition",
    "is_taken",
    "translate",
    "wants_checksum",
]


class FailureKind(Enum):
    """Where a request ended."""

    ANSWERED = "the server answered with an error"
    NO_ANSWER = "no answer, or not a whole one"
    TLS = "the TLS handshake failed"
    CREDENTIALS = "no credentials were found"
    REQUEST = "the request can't be made from these settings"


class S3Failure(Exception):
    """A request that was not done, as far as is known.

    Args:
        kind: where it ended.
        reason: one line, without secrets.
        code: S3's code, for ANSWERED; a HEAD has only the status.
        status: the HTTP status, for ANSWERED.
        server_time_ms: the server's clock, where it told.
        options: names of the storage options that the request carried.
    """

    def __init__(
        self,
        kind: FailureKind,
        reason: str,
        *,
        code: str = "",
        status: int = 0,
        server_time_ms: int | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.code = code
        self.status = status
        self.server_time_ms = server_time_ms
        self.options = options


class BodyTooLarge(Exception):
    """A reply is larger than what was asked for; it was not read."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.size_bytes = size_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a request was about, for messages. ``key`` is empty for the bucket itself."""

    operation: str
    endpoint: str
    bucket: str
    name: str
    key: str


#: Codes are compared in lower case: servers differ in it.
_DENIED = {
    "invalidaccesskeyid": ("the access key is not known there", "check storage.access_key"),
    "xadminusernotfound": ("the access key is not known there", "check storage.access_key"),  # versitygw
    "signaturedoesnotmatch": ("the signature is wrong", "check storage.secret_key (and storage.region)"),
    "invalidtoken": ("the session token is not valid", "check storage.session_token"),
    "expiredtokenexception": ("the session token has expired", "get new temporary credentials"),
    "expiredtoken": ("the session token has expired", "get new temporary credentials"),
    "tokenrefreshrequired": ("the session token has expired", "get new temporary credentials"),
    "accountproblem": ("the account has a problem", "ask whoever runs the account"),
    "invalidobjectstate": (
        "the object lies in an archive, where it can't be read at once",
        "a lifecycle rule moved it: get it back from the archive (aws s3api restore-object), then run the same command again",
    ),
    "allaccessdisabled": ("access is switched off", "ask whoever runs the store"),
}
_FORBIDDEN = frozenset({"accessdenied", "403", "forbidden", "unauthorizedaccess", "401", "unauthorized"})
_MISSING = frozenset({"nosuchkey", "404", "notfound"})
_TEMPORARY = frozenset(
    {
        "slowdown",
        "serviceunavailable",
        "internalerror",
        "requesttimeout",  # a status of 400, but about the connection
        "operationaborted",
        "conditionalrequestconflict",  # 409: another conditional write of it was running; AWS says try again
        "throttling",
        "throttlingexception",
        "toomanyrequests",
        "requestlimitexceeded",
        "bandwidthlimitexceeded",
        "xamzcontentsha256mismatch",  # the body changed on its way
        "baddigest",
        "incompletebody",
        "408",
        "429",
    }
)
_FULL = frozenset({"quotaexceeded", "xminiostoragefull", "insufficientstorage", "insufficientcapacity", "507"})
_REGION = frozenset({"permanentredirect", "authorizationheadermalformed", "301", "invalidregion"})
#: A read answered with 400: seen for objects of SSE-C, whose HEAD tells no more.
_OTHER_KEY = "an object is read with the storage.sse_customer_key that it was written with, and without one if it was written without"
#: Servers that have not implemented conditional writes, and say so.
_REFUSED_CONDITION = frozenset(
    {"invalidargument", "einval", "notimplemented", "invalidrequest", "unknownerror", "400", "501"}
)


def is_missing(failure: S3Failure) -> bool:
    """Whether it says that the object is not there."""
    return failure.kind is FailureKind.ANSWERED and failure.code.lower() in _MISSING


def is_taken(failure: S3Failure) -> bool:
    """Whether a conditional write found the object."""
    return failure.kind is FailureKind.ANSWERED and failure.status == 412


def is_refused_condition(failure: S3Failure) -> bool:
    """Whether it may mean that the server can't do conditional writes."""
    return failure.kind is FailureKind.ANSWERED and failure.code.lower() in _REFUSED_CONDITION


def wants_checksum(failure: S3Failure) -> bool:
    """Whether a body was refused for want of a checksum, as buckets with a default retention do."""
    return failure.kind is FailureKind.ANSWERED and (
        failure.code.lower() == "missingcontentmd5" or "content-md5" in failure.reason.lower()
    )


def translate(failure: S3Failure, place: Place, *, now_ms: int) -> KbrError:
    """A failed request as kbr's error; StoreUnavailable means that trying again may help."""
    words = f"{place.operation} of {place.name} at {place.endpoint}: {failure.reason}"
    if failure.kind is FailureKind.NO_ANSWER:
        return StoreUnavailable(
            words, hint=f"check that {place.endpoint} is right and can be reached from here", object=place.key
        )
    if failure.kind is FailureKind.TLS:
        return StorageError(
            f"no TLS connection to {place.endpoint}: {failure.reason}",
            hint="set storage.ca_bundle to the CA that signed the server's certificate, or use http:// if that is what it speaks",
        )
    if failure.kind is FailureKind.CREDENTIALS:
        return AccessDenied(
            f"no credentials for {place.endpoint}: {failure.reason}",
            hint="set storage.access_key and storage.secret_key, or storage.profile, or what boto finds (environment, files, instance role)",
        )
    if failure.kind is FailureKind.REQUEST:
        return ConfigError(words, hint="check the storage settings")
    return _translate_answer(failure, place, words, now_ms)


def _translate_answer(failure: S3Failure, place: Place, words: str, now_ms: int) -> KbrError:
    code = failure.code.lower()
    refused = refused_options(failure.code, failure.reason, failure.options)
    if refused and place.operation in ("get", "read", "head"):
        return StorageError(words, hint=_OTHER_KEY, object=place.key)
    if refused:
        names = " and ".join(refused)
        return ConfigError(
            f"{place.endpoint} refuses {names}: {failure.reason}",
            hint=f"check {names}, and that the server and the bucket can do it (kbr config check --probe)",
            object=place.key,
        )
    if code == "nosuchbucket":
        return StorageError(
            f"bucket {place.bucket} does not exist at {place.endpoint}",
            hint="check storage.bucket and storage.endpoint",
        )
    if code == "invalidbucketname":
        return StorageError(f"{place.bucket} is no bucket name for {place.endpoint}", hint="check storage.bucket")
    if code == "requesttimetooskewed":
        return AccessDenied(
            f"{place.operation} of {place.name} at {place.endpoint}: {_skew(failure.server_time_ms, now_ms)}",
            hint="set this machine's clock right (NTP)",
            object=place.key,
        )
    if code in _DENIED:
        reason, hint = _DENIED[code]
        return AccessDenied(
            f"{place.operation} of {place.name} at {place.endpoint}: {reason}", hint=hint, object=place.key
        )
    # before the status: Ceph answers a quota with 403
    if code in _FULL or failure.status == 507:
        return StoreFull(words, hint="make room, then run the same command again", object=place.key)
    if code in _FORBIDDEN or failure.status in (401, 403):
        rights = needed_rights(failure.options)
        hint = f"check the credentials, and their rights on the bucket{f' ({rights})' if rights else ''}"
        return AccessDenied(words, hint=hint, object=place.key, operation=place.operation)
    if code in _TEMPORARY:
        return StoreUnavailable(words, hint=f"{place.endpoint} is overloaded or has a fault", object=place.key)
    if failure.status == 412:
        return PreconditionFailed(f"{place.name} is already there", object=place.key)
    if code == "nosuchupload":
        return StorageError(
            f"the unfinished upload of {place.name} is gone: somebody else or a lifecycle rule ended it",
            hint="run the same command again",
            object=place.key,
        )
    if code in _MISSING and place.key:
        return ObjectMissing(f"{place.name} is not there", object=place.key)
    if code in _REGION or failure.status == 301:
        return StorageError(
            words, hint="the bucket is in another region: check storage.region and storage.endpoint", object=place.key
        )
    if code == "notimplemented" or failure.status == 501:
        return StorageError(words, hint=f"{place.endpoint} can't do this", object=place.key)
    if failure.status >= 500:
        return StoreUnavailable(words, hint=f"{place.endpoint} is overloaded or has a fault", object=place.key)
    hint = ""
    if failure.status == 400 and place.operation in ("get", "read", "head"):
        hint = _OTHER_KEY
    elif failure.status == 400 and code == "400":  # of a HEAD, which a write looks by
        hint = "check storage.region: the answer to a HEAD has no words, and a server that wants another region answers so"
    return StorageError(words, hint=hint, object=place.key, code=failure.code)


def _skew(server_time_ms: int | None, now_ms: int) -> str:
    if server_time_ms is None:
        return "your clock is off"
    off_s = round((now_ms - server_time_ms) / 1000)
    return f"your clock is {abs(off_s)} s {'ahead of' if off_s > 0 else 'behind'} the server's"
