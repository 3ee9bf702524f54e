"""No dead option: every key of the model is read by the wiring."""

from __future__ import annotations

import re
from pathlib import Path

from kbr.config.keys import all_keys

ROOT = Path(__file__).parents[3]

#: Keys that kbr.config itself turns into something else, and what of that the wiring has to read instead.
TURNED_INTO = {
    "mode": None,  # compared with the verb
    "storage.url": "location",
    "storage.backend": "location",
    "storage.path": "location",
    "storage.bucket": "location",
    "storage.prefix": "location",
    "storage.path_style": "uses_path_style",
    "source.security.password_command": "password",
    "source.security.ssl_key_password_command": "ssl_key_password",
    "target.security.password_command": "password",
    "target.security.ssl_key_password_command": "ssl_key_password",
    "source.security.oauth_client_secret_command": "oauth_client_secret",
    "target.security.oauth_client_secret_command": "oauth_client_secret",
    # read by kbr.config: its file's entries are keys of the layer below the configuration file
    "source.command_config": None,
    "target.command_config": None,
    "storage.secret_key_command": "secret_key",
    "encryption.key_command": "key",
    "encryption.identity_password_command": "identity_password",
    "signing.key_password_command": "key_password",
    "storage.sse_customer_key_command": "sse_customer_key",
    # read by the command line, which sets up logging before a use case begins
    "logging.format": None,
    "logging.level": None,
}


def test_every_key_is_read_by_the_wiring() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "kbr" / "app").glob("*.py")))
    unread = []
    for key in all_keys():
        name = TURNED_INTO.get(key.name, key.path[-1])
        if name is not None and not re.search(rf"\.{name}\b", code):
            unread.append(key.name)
    assert unread == []


def test_logging_keys_are_read_by_the_command_line() -> None:
    code = (ROOT / "kbr" / "cli" / "options.py").read_text(encoding="utf-8")
    assert "config.logging.format" in code
    assert "config.logging.level" in code
