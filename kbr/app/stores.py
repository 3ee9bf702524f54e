"""Turns the section `storage` of a configuration into the options of a store, and warns of what is not safe in it."""

from __future__ import annotations

import base64
import binascii
import logging
import os
from dataclasses import replace

from kbr.app.trust import trust_of
from kbr.config import Config
from kbr.config.model import StorageConfig
from kbr.config.names import is_secret_option
from kbr.errors import ConfigError
from kbr.repository.layout import RETAINED_KEYS, SEGMENT_KEYS
from kbr.repository.sealing import Sealing
from kbr.secrecy import hide, secrets_of
from kbr.storage import ObjectOptions, StorageOptions

__all__ = ["check_readable", "storage_options", "store_options", "warn_of_plain_http"]

_log = logging.getLogger("kbr.storage")


def storage_options(
    config: Config, *, lenient: bool = False, goes_on: bool = False, commands_ran: bool = True
) -> StorageOptions:
    """Where backups lie, and what opens them.

    Args:
        lenient: for who only shows what is there: also backups that are not encrypted, or not signed, as they should be.
        goes_on: for who goes on with a backup, and signs it.
        commands_ran: the programs that print secrets.

    Raises:
        ConfigError: a key for encryption or signing is none, or its file can't be read; the key of SSE-C is none, or
            would go over the network in the clear.
    """
    trust = trust_of(config, lenient=lenient, goes_on=goes_on, commands_ran=commands_ran)
    options = replace(store_options(config.storage), layer=Sealing(trust=trust))
    hide(secrets_of(options))  # keys as bytes, which the configuration has as text
    return options


def store_options(config: StorageConfig) -> StorageOptions:
    """Where backups lie, objects as they are stored.

    Raises:
        ConfigError: the key of SSE-C is none, or would go over the network in the clear; the file of CAs can't be read.
    """
    if config.ca_bundle is not None:  # botocore's error of it looks as if the server did not answer
        check_readable("storage.ca_bundle", config.ca_bundle)
    return StorageOptions(
        url=config.location,
        endpoint_url=config.endpoint,
        region=config.region,
        access_key=_revealed(config.access_key),
        secret_key=_revealed(config.secret_key),
        session_token=_revealed(config.session_token),
        profile=config.profile,
        anonymous=config.anonymous,
        ca_bundle=config.ca_bundle,
        path_style=config.uses_path_style,
        objects=_object_options(config),
        extra={name: _option(name, value) for name, value in config.options.items()},
        deadline_s=config.deadline_ms / 1000,
    )


def check_readable(key: str, path: str) -> None:
    """See that a file or folder that a key names is there, without a look at what it holds.

    Raises:
        ConfigError: it can't be read. Its name is left out: where a path belongs, somebody may have pasted a private key.
    """
    try:
        if os.path.isdir(path):
            os.scandir(path).close()
        else:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        raise ConfigError(
            f"key {key}: its file can't be read: {error.strerror}", hint="check the path: it is taken from where kbr is started"
        ) from error


def warn_of_plain_http(options: StorageOptions) -> None:
    """Say once a run that others can read what goes to the store."""
    if options.plain_http is not None:
        _log.warning(
            "%s is plain HTTP: whoever is in between can read the backup%s; use https://",
            options.plain_http,
            " and the session token" if options.session_token is not None else "",
        )


def _object_options(config: StorageConfig) -> ObjectOptions:
    return ObjectOptions(
        sse=None if config.sse == "none" else config.sse,
        sse_kms_key_id=config.sse_kms_key_id,
        sse_customer_key=_customer_key(_revealed(config.sse_customer_key)),
        storage_class=config.storage_class,
        tags=tuple(config.tags.items()),
        lock_mode=None if config.object_lock_mode is None else config.object_lock_mode.upper(),
        lock_retain_days=config.object_lock_retain_days or 0,
        storage_class_keys=SEGMENT_KEYS,
        lock_keys=RETAINED_KEYS,
    )


def _customer_key(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        # without the cause: its words may quote the key
        raise ConfigError(
            "storage.sse_customer_key is not base64", hint="make one with: openssl rand -base64 32"
        ) from None


def _revealed(value: object) -> str | None:
    reveal = getattr(value, "get_secret_value", None)
    return None if reveal is None else str(reveal())


def _option(name: str, text: str) -> object:
    """A filesystem's option as its constructor takes it: YAML's texts don't say which are numbers.

    A secret stays the text that it is, be it made of digits.
    """
    if is_secret_option(name):
        return text
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isascii() and text.isdecimal() and str(int(text)) == text else text
