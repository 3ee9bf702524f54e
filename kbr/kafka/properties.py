"""What the librdkafka in use can and can't do of what a client is to be told: before a client is made.

librdkafka itself says what it refuses, in words of its own and one property at a time; here that becomes one line with
the nearest name. Nothing is connected to, and no value is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache

from kbr.errors import ConfigError
from kbr.kafka.native import load_library
from kbr.kafka.settings import MSK_IAM, ClientSettings
from kbr.kafka.tokens import token_source
from kbr_codec.rdkafka import Property, builtin_features, has_property, known_properties

__all__ = ["check_client", "is_known_property", "missing_features", "settable_names"]

#: What a mechanism needs of those features that a librdkafka may be built without (builtin.features).
_FEATURES = {
    "PLAIN": "sasl_plain",
    "SCRAM-SHA-256": "sasl_scram",
    "SCRAM-SHA-512": "sasl_scram",
    "OAUTHBEARER": "sasl_oauthbearer",
    MSK_IAM: "sasl_oauthbearer",
    "GSSAPI": "sasl_gssapi",
}
#: What confluent_kafka takes beside librdkafka's properties, all of it functions or objects.
_FUNCTIONS = frozenset({"logger", "oauth_cb", "on_commit", "on_delivery", "dr_cb", "default.topic.config"})


def check_client(settings: ClientSettings) -> None:
    """See that this librdkafka knows the properties under ``client``, and the way to log in.

    Raises:
        ConfigError: a property is unknown, or takes a function; librdkafka was built without what the login needs; the
            signer of AWS_MSK_IAM is missing.
    """
    version = load_library()
    has_plugins = "plugin.library.paths" in settings.client  # which may bring properties of their own
    for name in settings.client:
        known = _known().get(name)
        if name in _FUNCTIONS or (known is not None and not known.is_settable):
            raise ConfigError(
                f"client property {name} takes a function of a program, which a configuration can't give",
                hint=f"remove {name} from client",
                key=name,
            )
        if known is None and not has_plugins and not has_property(name):
            near = get_close_matches(name, settable_names(), n=1, cutoff=0.7)
            raise ConfigError(
                f"client property {name}: librdkafka {version} has none of that name",
                hint=f"did you mean {near[0]}?" if near else "its CONFIGURATION.md lists them all",
                key=name,
            )
    missing = missing_features(settings, builtin_features())
    if missing:
        raise ConfigError(
            f"{missing[0]}: librdkafka {version} was built without it (builtin.features has no {missing[1]})",
            hint="confluent-kafka's wheels have no Kerberos: install librdkafka with it, then "
            "pip install --no-binary confluent-kafka confluent-kafka"
            if missing[1] == "sasl_gssapi"
            else "install a librdkafka that has it",
        )
    token_source(settings)


def settable_names() -> list[str]:
    """Names that may stand in a configuration."""
    return [name for name, known in _known().items() if known.is_settable]


def is_known_property(name: str) -> bool:
    """Whether this librdkafka has a property of that name that takes a text."""
    known = _known().get(name)
    return known is not None and known.is_settable


@cache
def _known() -> Mapping[str, Property]:
    load_library()
    return known_properties()


def missing_features(settings: ClientSettings, features: frozenset[str]) -> tuple[str, str] | None:
    """(what is asked for, the feature that it needs and librdkafka lacks); None where it lacks nothing."""
    client = settings.client
    protocol = client.get("security.protocol", settings.security_protocol).upper()
    mechanism = client.get("sasl.mechanism") or client.get("sasl.mechanisms") or settings.sasl_mechanism or ""
    if protocol.endswith("SSL") and "ssl" not in features:
        return f"security_protocol {protocol}", "ssl"
    needed = _FEATURES.get(mechanism.upper())
    if protocol.startswith("SASL") and needed is not None and needed not in features:
        return f"sasl_mechanism {mechanism}", needed
    if settings.oidc is not None and "oidc" not in features:
        return "tokens of an OpenID Connect server", "oidc"
    return None
