"""Tokens for SASL/OAUTHBEARER that kbr gets by itself: Amazon MSK's, from AWS's own signer (the extra ``kbr[msk]``).

The only importer of aws_msk_iam_sasl_signer. Tokens of an OpenID Connect server are librdkafka's own business
(``sasl.oauthbearer.method=oidc``). Whoever holds a client gives it a source, which librdkafka asks again at 80 % of a
token's life, in a thread of its own (kbr_codec.rdkafka, confluent_kafka's ``oauth_cb``).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping

from kbr.errors import AuthenticationFailed, ConfigError
from kbr.kafka.settings import MSK_IAM, ClientSettings, MskIamLogin
from kbr.secrecy import redact

__all__ = ["TokenSource", "msk_region", "token_source"]

#: How long AWS's signer may take, seconds. Where it finds credentials by asking somebody (STS, an instance's metadata, a program) who
#: does not answer, it waits for minutes, and a client's close for as long.
SIGN_DEADLINE_S = 20.0

#: Gives a token, when it expires (ms since the epoch), and whose it is (empty: the token says it).
TokenSource = Callable[[], tuple[str, int, str]]

#: b-1.name.abc123.c2.kafka.eu-central-1.amazonaws.com, boot-abc.c1.kafka-serverless.eu-central-1.amazonaws.com, ...
_MSK_HOST = re.compile(r"\.kafka(?:-serverless)?\.([a-z]{2,}(?:-[a-z]+)+-[0-9]+)\.amazonaws\.com(?:\.cn)?(?::[0-9]+)?$", re.IGNORECASE)


def token_source(settings: ClientSettings) -> TokenSource | None:
    """Where a client with these settings gets its tokens; None where kbr has not to get any.

    Raises:
        ConfigError: the signer is not installed, or nobody says the region.
    """
    if settings.sasl_mechanism != MSK_IAM:
        return None
    login = settings.msk_iam or MskIamLogin()
    region = login.region or msk_region(settings.bootstrap_servers, os.environ)
    if not region:
        raise ConfigError(
            f"sasl_mechanism {MSK_IAM}: the cluster's AWS region is not known",
            hint="set security.aws_region, or AWS_REGION; a broker's own name at amazonaws.com would tell it, too",
        )
    try:
        from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
    except ImportError as error:
        raise ConfigError(
            f"sasl_mechanism {MSK_IAM} needs AWS's signer, which is not installed: {error}",
            hint="pip install 'kbr[msk]'",
        ) from error
    return _MskTokens(MSKAuthTokenProvider, login, region)


def msk_region(servers: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """The AWS region by the brokers' names, else by the environment; empty where neither says it."""
    for server in servers:
        match = _MSK_HOST.search(server)
        if match is not None:
            return match.group(1).lower()
    return environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or ""


class _Attempt:
    """One try of the signer, in a thread that nobody waits for longer than he likes: a process ends all the same."""

    def __init__(self, sign: Callable[[], tuple[str, int]]) -> None:
        self._sign = sign
        self._result: tuple[str, int] | None = None
        self._error: BaseException | None = None
        self.ended = threading.Event()
        threading.Thread(target=self._run, name="sign-token", daemon=True).start()

    def _run(self) -> None:
        try:
            self._result = self._sign()
        except BaseException as error:  # it is raised where the result is asked for
            self._error = error
        self.ended.set()

    def result(self, timeout_s: float) -> tuple[str, int]:
        """What the signer gave, or what it raised.

        Raises:
            TimeoutError: it has given nothing yet.
        """
        if not self.ended.wait(timeout_s):
            raise TimeoutError(f"AWS's signer has found no credentials in {timeout_s:g} s")
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise RuntimeError("a signer gives a token or an error")
        return self._result


class _MskTokens:
    """Signs ``kafka-cluster:Connect`` anew each time, with the credentials that are there then (roles rotate theirs)."""

    def __init__(self, signer: object, login: MskIamLogin, region: str) -> None:
        self._signer: object = signer
        self._login = login
        self._region = region
        self._lock = threading.Lock()
        self._attempt: _Attempt | None = None

    def __call__(self) -> tuple[str, int, str]:
        try:
            with self._lock:
                # one that hangs is waited for again: librdkafka asks every few seconds, and each would be another thread that hangs
                if self._attempt is None or self._attempt.ended.is_set():
                    self._attempt = _Attempt(self._sign)
                attempt = self._attempt
            token, expires_at_ms = attempt.result(SIGN_DEADLINE_S)
        except Exception as error:  # botocore's errors, an AttributeError where it finds no credentials, ...
            why = " ".join(redact(str(error)).split()) if not isinstance(error, AttributeError) else "no AWS credentials were found"
            raise AuthenticationFailed(
                f"no token could be had for Amazon MSK in {self._region}: {why}",
                hint="check the AWS credentials of this process (environment, profile, instance role), security.aws_profile "
                "and security.aws_role_arn, and that whoever gives them (STS, the instance's metadata, a credential_process) answers",
            ) from error
        return token, expires_at_ms, ""

    def _sign(self) -> tuple[str, int]:
        signer, login, region = self._signer, self._login, self._region
        if login.role_arn:
            session = {"sts_session_name": login.role_session} if login.role_session else {}
            signed = signer.generate_auth_token_from_role_arn(region, login.role_arn, **session)  # type: ignore[attr-defined]
        elif login.profile:
            signed = signer.generate_auth_token_from_profile(region, login.profile)  # type: ignore[attr-defined]
        else:
            signed = signer.generate_auth_token(region)  # type: ignore[attr-defined]
        token, expires_at_ms = signed
        return str(token), int(expires_at_ms)
