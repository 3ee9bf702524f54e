"""``client.properties`` of Kafka's own tools (``--command-config``), as keys of a cluster section.

Owns the translation of names and the reading of the file; not what is valid for a key. A Java client and librdkafka want
certificates in different files: what can't be read by librdkafka is told with the command that converts it. No message
shows a value that may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from kbr.config.jaas import JaasEntry, parse_jaas
from kbr.config.java_names import DIRECT, JAVA_ONLY, JAVA_PREFIXES, NUMBERS

__all__ = ["MAX_BYTES", "JavaClient", "JavaProblem", "read_client_properties", "translate_client_properties"]

MAX_BYTES = 1024 * 1024

#: Steps below ``source`` or ``target``.
Steps = tuple[str, ...]

#: What a property is called, as far as Java's clients and librdkafka go: small words with dots between them. Base64 has no dot, and a
#: token that has some is not all small letters.
_NAME = re.compile(r"[a-z][a-z0-9]{0,29}(?:[._-][a-z0-9]{1,30}){1,9}")
#: A class of Java's, with its package.
_CLASS = re.compile(r"[A-Za-z_]\w{0,60}(?:\.[A-Za-z_][\w$]{0,60}){1,12}")
_STORE_LOOK_BYTES = 4096
_STORES = ("ssl.truststore", "ssl.keystore")
_STORE_NAMES = tuple(f"{store}.{one}" for store in _STORES for one in ("location", "password", "type"))
_LOGIN_NAMES = (
    "sasl.mechanism",
    "sasl.jaas.config",
    "sasl.login.callback.handler.class",
    "sasl.client.callback.handler.class",
    "ssl.endpoint.identification.algorithm",
)
#: Amazon's library for Java, aws-msk-iam-auth.
_MSK_HANDLERS = frozenset(
    {
        "software.amazon.msk.auth.iam.IAMClientCallbackHandler",
        "software.amazon.msk.auth.iam.IAMOAuthBearerLoginCallbackHandler",
    }
)
_OIDC_HANDLERS = frozenset(
    {
        "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler",
        "org.apache.kafka.common.security.oauthbearer.secured.OAuthBearerLoginCallbackHandler",
    }
)
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
_OAUTH = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
_KERBEROS = "com.sun.security.auth.module.Krb5LoginModule"
_MSK = "software.amazon.msk.auth.iam.IAMLoginModule"
#: Options of login modules, and their keys; others are Java's own business.
_OPTIONS: Mapping[str, Mapping[str, Steps]] = {
    _PLAIN: {"username": ("security", "username"), "password": ("security", "password")},
    _SCRAM: {"username": ("security", "username"), "password": ("security", "password")},
    _OAUTH: {
        "clientId": ("security", "oauth_client_id"),
        "clientSecret": ("security", "oauth_client_secret"),
        "scope": ("security", "oauth_scope"),
    },
    _KERBEROS: {
        "serviceName": ("client", "sasl.kerberos.service.name"),
        "principal": ("client", "sasl.kerberos.principal"),
        "keyTab": ("client", "sasl.kerberos.keytab"),
    },
    _MSK: {
        "awsProfileName": ("security", "aws_profile"),
        "awsRoleArn": ("security", "aws_role_arn"),
        "awsRoleSessionName": ("security", "aws_role_session"),
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JavaProblem:
    """A mistake, or something that has no counterpart; ``line`` is 0 where it is about the whole file."""

    line: int
    what: str
    suggestion: str = ""
    hint: str = ""


@dataclass(slots=True)
class JavaClient:
    """What became of a file.

    Attributes:
        values: key below ``source`` or ``target`` -> (value, line).
        problems: what can't be translated.
        ignored: names without a meaning here, in the order of the file.
    """

    values: dict[Steps, tuple[str, int]] = field(default_factory=dict)
    problems: list[JavaProblem] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def read_client_properties(path: Path, *, is_librdkafkas: Callable[[str], bool], known: Callable[[], list[str]]) -> JavaClient:
    """Read and translate a file.

    Args:
        is_librdkafkas: whether librdkafka has a property of that name.
        known: all names of its properties, to look for the nearest.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable path"
        return JavaClient(problems=[JavaProblem(line=0, what=f"can't be read: {reason}")])
    if len(text) > MAX_BYTES:
        return JavaClient(problems=[JavaProblem(line=0, what=f"is larger than {MAX_BYTES} bytes")])
    return translate_client_properties(text, is_librdkafkas=is_librdkafkas, known=known)


def translate_client_properties(
    text: bytes, *, is_librdkafkas: Callable[[str], bool], known: Callable[[], list[str]]
) -> JavaClient:
    """The same of a file's content: java.util.Properties, in Latin-1 with ``\\uXXXX``."""
    found = JavaClient()
    try:
        entries = dict(_entries(text))
    except ValueError:  # its text would quote the file
        found.problems.append(JavaProblem(line=0, what="is no properties file: a \\u without four hexadecimal digits"))
        return found
    _Translation(entries, found, is_librdkafkas, known).run()
    return found


def _entries(text: bytes) -> Iterator[tuple[str, tuple[str, int]]]:
    """Name -> (value, line); of a name that comes twice the last one counts, as for Java."""
    import javaproperties

    line = 1
    for element in javaproperties.parse(text):
        if isinstance(element, javaproperties.KeyValue):
            yield element.key.strip(), (element.value.strip(), line)
        line += element.source.count("\n") or element.source.count("\r")


class _Translation:
    def __init__(
        self,
        entries: Mapping[str, tuple[str, int]],
        found: JavaClient,
        is_librdkafkas: Callable[[str], bool],
        known: Callable[[], list[str]],
    ) -> None:
        self._entries = entries
        self._found = found
        self._is_librdkafkas = is_librdkafkas
        self._known = known

    def run(self) -> None:
        for name, (value, line) in self._entries.items():
            if name in _STORE_NAMES or name in _LOGIN_NAMES:
                continue
            if value == "" and name != "sasl.oauthbearer.scope":
                continue  # as if it was not there
            self._one(name, value, line)
        for store in _STORES:
            self._store(store)
        self._host_check()
        self._login()

    def _one(self, name: str, value: str, line: int) -> None:
        if "${" in value and "config.providers" in self._entries:
            shown = name if self._is_name(name) else "a name that is not shown"
            self._problem(line, f"{shown}: config providers are Java's: write the value, or give the key in kbr's own file")
        elif name in DIRECT:
            self._put(DIRECT[name], value, line)
        elif name in NUMBERS:
            self._number(name, value, line)
        elif name in JAVA_ONLY or (name.startswith(JAVA_PREFIXES) and self._is_name(name)):
            self._found.ignored.append(name)
        elif self._is_librdkafkas(name):
            self._put(("client", name), value, line)
        elif not self._is_name(name):
            self._problem(
                line,
                "begins with no name of a property (it is not shown, as it may be a piece of a secret)",
                hint="a value of several lines, such as a key in PEM, needs a \\ at the end of each but the last",
            )
        else:
            near = get_close_matches(name, [*_STORE_NAMES, *_LOGIN_NAMES, *DIRECT, *NUMBERS, *JAVA_ONLY, *self._known()], n=1, cutoff=0.75)
            self._problem(line, f"{name}: unknown to Java clients and to librdkafka", suggestion=near[0] if near else "")

    @staticmethod
    def _is_name(name: str) -> bool:
        """Whether it can be shown: where a value was broken into lines by mistake, each begins with a piece of it, and that counts as a name."""
        return name in JAVA_ONLY or _NAME.fullmatch(name) is not None

    def _number(self, name: str, value: str, line: int) -> None:
        property_name, least, most = NUMBERS[name]
        try:
            number = int(value)
        except ValueError:
            self._problem(line, f"{name}: must be a whole number")
            return
        self._put(("client", property_name), str(max(least, min(most, number))), line)

    # -- files of keys and certificates ---------------------------------------------------

    def _store(self, store: str) -> None:
        location, line = self._entries.get(f"{store}.location", ("", 0))
        if not location:
            return
        if "-----BEGIN" in location:
            # not shown: it may be a private key
            self._problem(line, f"{store}.location: must be the path of a file, and is a key or certificate itself")
            return
        try:
            with open(location, "rb") as file:
                start = file.read(_STORE_LOOK_BYTES)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable path"
            self._problem(line, f"{store}.location: can't read {location}: {reason}")
            return
        is_trust = store == "ssl.truststore"
        if b"-----BEGIN" in start:
            if is_trust:
                self._put(("security", "ssl_ca_location"), location, line)
            else:
                self._put(("security", "ssl_certificate_location"), location, line)
                self._put(("security", "ssl_key_location"), location, line)
        elif is_trust:
            self._problem(
                line,
                f"ssl.truststore.location: {location} is a Java keystore, and librdkafka reads PEM files",
                hint=f"keytool -list -rfc -keystore {location} > ca.pem, and name that instead",
            )
        elif start[:4] == b"\xfe\xed\xfe\xed":
            self._problem(
                line,
                f"ssl.keystore.location: {location} is a JKS keystore, and librdkafka reads PKCS12 and PEM files",
                hint=f"keytool -importkeystore -srckeystore {location} -destkeystore client.p12 -deststoretype PKCS12, and "
                "name that instead",
            )
        elif start[:1] == b"\x30":
            self._put(("client", "ssl.keystore.location"), location, line)
            password, password_line = self._entries.get(f"{store}.password", ("", 0))
            if password:
                self._put(("client", "ssl.keystore.password"), password, password_line)
            self._found.values.pop(("security", "ssl_key_password"), None)  # in PKCS12 it is the keystore's own
        else:
            self._problem(line, f"ssl.keystore.location: {location} is no PEM, PKCS12 or JKS file")

    def _host_check(self) -> None:
        name = "ssl.endpoint.identification.algorithm"
        if name in self._entries:
            value, line = self._entries[name]
            self._put(("security", name.replace(".", "_")), value.lower() or "none", line)

    # -- logging in -----------------------------------------------------------------------

    def _login(self) -> None:
        mechanism, line = self._entries.get("sasl.mechanism", ("", 0))
        is_msk = mechanism == "AWS_MSK_IAM"
        for name in ("sasl.login.callback.handler.class", "sasl.client.callback.handler.class"):
            handler, handler_line = self._entries.get(name, ("", 0))
            if handler in _MSK_HANDLERS:
                is_msk, line = True, line or handler_line
            elif handler and handler not in _OIDC_HANDLERS:
                self._problem(handler_line, f"{name}: {_shown_class(handler)} is a Java class that kbr has no counterpart for")
        jaas = self._jaas()
        if not mechanism and jaas is not None and jaas.module == _KERBEROS:
            mechanism, line = "GSSAPI", self._entries["sasl.jaas.config"][1]  # Java's default
        if is_msk:
            mechanism = "AWS_MSK_IAM"
        if mechanism:
            self._put(("security", "sasl_mechanism"), mechanism, line)
        if jaas is not None:
            self._module(jaas, self._entries["sasl.jaas.config"][1], is_msk=is_msk)

    def _jaas(self) -> JaasEntry | None:
        text, line = self._entries.get("sasl.jaas.config", ("", 0))
        if not text:
            return None
        try:
            return parse_jaas(text)
        except ValueError as error:
            self._problem(line, f"sasl.jaas.config: {error}")
            return None

    def _module(self, jaas: JaasEntry, line: int, *, is_msk: bool) -> None:
        module = _MSK if is_msk and jaas.module == _OAUTH else jaas.module
        keys = _OPTIONS.get(module)
        if keys is None:
            self._problem(line, f"sasl.jaas.config: kbr has no counterpart for the login module {_shown_class(module)}")
            return
        for name, value in jaas.options.items():
            if name in keys:
                self._put(keys[name], value, line)
            elif module == _SCRAM and name == "tokenauth" and value.lower() == "true":
                self._problem(line, "sasl.jaas.config: librdkafka can't log in with delegation tokens (tokenauth)")
            elif name.startswith("unsecuredLogin"):
                self._problem(
                    line,
                    f"sasl.jaas.config: {name}: unsecured tokens are for tests only",
                    hint="set enable.sasl.oauthbearer.unsecure.jwt and sasl.oauthbearer.config under client yourself",
                )
        extensions = [
            f"{name.removeprefix('extension_')}={value}" for name, value in jaas.options.items() if name.startswith("extension_")
        ]
        if extensions and module == _OAUTH:
            self._put(("security", "oauth_extensions"), ",".join(extensions), line)

    def _put(self, steps: Steps, value: str, line: int) -> None:
        self._found.values[steps] = (value, line)

    def _problem(self, line: int, what: str, *, suggestion: str = "", hint: str = "") -> None:
        self._found.problems.append(JavaProblem(line=line, what=what, suggestion=suggestion, hint=hint))


def _shown_class(name: str) -> str:
    """What stands where a class has to be named may be a piece of something else."""
    return name if _CLASS.fullmatch(name) else "what stands there (not shown: no class is called so)"
