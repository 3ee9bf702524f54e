"""Which storage option an S3 server means when it refuses a request, and which rights options need. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["needed_rights", "refused_options"]

_CUSTOMER = "storage.sse_customer_key"
_SSE = "storage.sse"
_KMS = "storage.sse_kms_key_id"
_CLASS = "storage.storage_class"
_TAGS = "storage.tags"
_LOCK = "storage.object_lock_mode"

#: Codes, in lower case, that are about one option only (S3's API reference, Ceph's and versitygw's sources).
_CODES: Mapping[str, tuple[str, ...]] = {
    "invalidstorageclass": (_CLASS,),
    "invalidtag": (_TAGS,),
    "invalidtagkey": (_TAGS,),
    "invalidtagvalue": (_TAGS,),
    "toomanytags": (_TAGS,),
    "invalidencryptionalgorithmerror": (_SSE, _CUSTOMER),
    "invalidencryptionmethod": (_SSE, _CUSTOMER),
    "serversideencryptionconfigurationnotfounderror": (_SSE,),
    "invalidbucketobjectlockconfiguration": (_LOCK,),
    "missingobjectlockconfiguration": (_LOCK,),
    "objectlockconfigurationnotfounderror": (_LOCK,),
    "invalidobjectlockretainuntildate": (_LOCK,),
    "pastobjectlockretaindate": (_LOCK,),
    "invalidretentionperiod": (_LOCK,),
    "unknownwormmode": (_LOCK,),
    "objectlockinvalidheaders": (_LOCK,),
}
#: Codes that say nothing by themselves.
_VAGUE = frozenset(
    {"notimplemented", "invalidargument", "einval", "invalidrequest", "badrequest", "unknownerror", "400", "501", "malformedxml"}
)
#: How servers' messages name what they refuse; the first that is found counts.
_WORDS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (re.compile(r"object.?lock|retention|retain|worm", re.IGNORECASE), (_LOCK,)),
    (re.compile(r"customer|sse-?c\b", re.IGNORECASE), (_CUSTOMER,)),
    (re.compile(r"kms", re.IGNORECASE), (_KMS, _SSE)),
    (re.compile(r"encrypt|\bsse", re.IGNORECASE), (_SSE, _CUSTOMER)),
    (re.compile(r"storage.?class", re.IGNORECASE), (_CLASS,)),
    (re.compile(r"\btag", re.IGNORECASE), (_TAGS,)),
)
#: What AWS asks for beside PutObject and GetObject.
_RIGHTS = {
    _TAGS: "s3:PutObjectTagging",
    _LOCK: "s3:PutObjectRetention",
    _KMS: "kms:GenerateDataKey and kms:Decrypt on the key",
}


def refused_options(code: str, reason: str, options: tuple[str, ...]) -> tuple[str, ...]:
    """Those of a request's options that the server refuses; empty if it means something else.

    Args:
        code: S3's.
        reason: the server's words.
        options: what the request carried.
    """
    code = code.lower()
    if not options:
        return ()
    if code in _CODES:
        return _first_of(_CODES[code], options)
    if code.startswith("kms."):  # KMS.NotFoundException, KMS.DisabledException, ...
        return _first_of((_KMS, _SSE), options)
    if code not in _VAGUE:
        return ()
    for words, meant in _WORDS:
        if words.search(reason):
            return _first_of(meant, options)
    return options


def needed_rights(options: tuple[str, ...]) -> str:
    """What a credential needs for options beside the usual rights; empty for nothing."""
    found = [f"{option} needs {_RIGHTS[option]}" for option in options if option in _RIGHTS]
    return ", ".join(found)


def _first_of(meant: tuple[str, ...], options: tuple[str, ...]) -> tuple[str, ...]:
    """The option that is meant; of two that a word may mean, the one that was given."""
    return next(((option,) for option in meant if option in options), ())
