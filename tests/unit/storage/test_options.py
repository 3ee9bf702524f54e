"""What options of a store tell by themselves."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from kbr.storage import StorageOptions


@pytest.mark.parametrize(
    ("endpoint", "extra", "told"),
    [
        (None, {}, None),
        ("https://s3.example.net", {}, None),
        ("http://127.0.0.1:7070", {}, None),
        ("http://s3.example.net", {}, "http://s3.example.net"),
        (None, {"endpoint_url": "HTTP://gcs.example.net/x?sig=hidden"}, "HTTP://gcs.example.net/x"),
        (None, {"endpoint_url": "http://localhost:4443"}, None),
        (None, {"endpoint_url": "http://[no-address"}, "http://[no-address"),
        (None, {"account_host": "https://a.example.net", "timeout": 5, "proxy": "http://proxy.example.net"}, None),
    ],
)
def test_plain_http_to_another_machine_is_told_without_secrets(
    endpoint: str | None, extra: Mapping[str, object], told: str | None
) -> None:
    assert StorageOptions(url="s3://bucket", endpoint_url=endpoint, extra=extra).plain_http == told
