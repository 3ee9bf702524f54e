"""One connection for looking and for small changes: opens the client, bounds its calls, explains its failures.

Owns confluent_kafka's AdminClient and what it says about its brokers, which otherwise would be printed. Knows
nothing of what kbr asks a cluster for: that is kbr.kafka.cluster.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from kbr.errors import AuthenticationFailed, ClusterUnavailable, ConfigError, KbrError
from kbr.kafka.properties import check_client
from kbr.kafka.settings import ClientSettings, admin_properties, login_files
from kbr.kafka.tls_look import why_refused
from kbr.kafka.tokens import TokenSource, token_source
from kbr.kafka.translate import Cause, translate
from kbr.renewal import SeenFiles
from kbr.telemetry.logs import CERTIFICATE_REFUSED, explain, get_logger
from kbr.timing import Backoff, Clock, Deadline

__all__ = ["AdminSession", "CallDeadline"]

_T = TypeVar("_T")

#: How long a cluster of which no broker answers is tried, seconds: a wrong address is told soon.
CONNECT_DEADLINE_S = 15.0
#: After this, brokers that refuse the login or the TLS handshake are believed, seconds.
REFUSED_DEADLINE_S = 3.0
#: How long a call may take that only looks, seconds, when the whole deadline is longer.
REQUEST_TIMEOUT_S = 30.0
#: Who waits for an answer looks so often whether it is to give up, seconds.
LOOK_S = 0.1
#: What the client said longer ago explains nothing, seconds. It repeats itself every 30 s at most
#: (rdkafka_broker.c, rd_kafka_broker_set_error).
CAUSE_LIFETIME_S = 60.0
#: For so long a refused login explains closed connections, seconds; it is tried again, and refused again, sooner.
REFUSAL_LIFETIME_S = 10.0
#: What librdkafka's mock cluster calls itself (rdkafka_mock.c, rd_kafka_mock_cluster_new).
MOCK_CLUSTER_PREFIX = "mockCluster"

#: What confluent_kafka puts before librdkafka's own line: facility and client (confluent_kafka.c, log_cb).
_LOG_FRAME = re.compile(r"^[A-Z_]+ \[[^\]]*\] ")

_log = get_logger("kbr.kafka")

#: Mechanisms whose logins run out and are renewed while a process works: tokens, tickets.
_RENEWED = frozenset({"OAUTHBEARER", "GSSAPI"})
_REFUSED = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL})
#: What a lost connection, or a broker that is on its way out, makes of a request.
_PASSING = frozenset({KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT})
_SILENT = frozenset({KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT})


class _ClientLog(logging.Handler):
    """Keeps the newest thing that the client said about a broker."""

    def __init__(self, clock: Clock, settings: ClientSettings) -> None:
        super().__init__()
        self._clock = clock
        self._settings = settings
        self._cause: Cause | None = None
        self._said_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        self._note(KafkaError._TRANSPORT, _LOG_FRAME.sub("", record.getMessage()))

    def note_error(self, error: KafkaError) -> None:
        """From the client's error callback: the same lines, with a code."""
        self._note(error.code(), error.str())

    def note_token_error(self, why: str) -> None:
        """From a source of tokens."""
        self._cause = Cause(
            code=KafkaError._AUTHENTICATION, broker="", reason=why, check="check the token's source and its settings"
        )
        self._said_at = self._clock.monotonic()

    def _note(self, code: int, text: str) -> None:
        # understood as it is, and masked where it is shown: the broker's name is used again, to look at its certificate
        broker, reason, check = explain(text, mask=self._settings.redact)
        if not reason:
            return
        if "SSL handshake failed" in text or "tls alert" in text:
            code = KafkaError._SSL  # also said of a listener without TLS, and of a client's certificate, as a mere disconnect
        last = self.cause()
        is_fresh = self._clock.monotonic() - self._said_at < REFUSAL_LIFETIME_S
        if last is not None and last.code in _REFUSED and code not in _REFUSED and is_fresh and last.broker in {"", broker}:
            return  # that a connection was closed follows from why it was
        if last is not None and last.broker == broker and last.reason == reason and code not in _REFUSED:
            code = last.code  # the log's line beside the callback's, which alone has the code
        self._cause = Cause(code=code, broker=broker, reason=reason, check=check)
        self._said_at = self._clock.monotonic()

    def cause(self) -> Cause | None:
        """Why a broker could not be reached lately."""
        if self._cause is None or self._clock.monotonic() - self._said_at > CAUSE_LIFETIME_S:
            return None
        return self._cause


class _TokenCallback:
    """A source of tokens as confluent_kafka wants it: it would only tell that something was raised, not what."""

    def __init__(self, tokens: TokenSource, log: _ClientLog) -> None:
        self._tokens = tokens
        self._log = log

    def __call__(self, _config: str) -> tuple[str, float, str, dict[str, str]]:
        try:
            token, expires_at_ms, principal = self._tokens()
        except Exception as error:
            self._log.note_token_error(str(error))
            raise
        return token, expires_at_ms / 1000, principal, {}


class CallDeadline(Deadline):
    """A deadline that a stop of the run brings nearer.

    Args:
        is_stopped: whether the run is to end.
        grace_s: how long it may take from then on, seconds.
    """

    def __init__(
        self, seconds: float, *, clock: Clock, is_stopped: Callable[[], bool] = lambda: False, grace_s: float = 0.0
    ) -> None:
        super().__init__(seconds, clock=clock)
        self._is_stopped = is_stopped
        self._grace_s = grace_s
        self._stop_at: float | None = None

    @property
    def is_given_up(self) -> bool:
        """Whether the run was stopped so long ago that nobody waits any more."""
        if self._stop_at is None and self._is_stopped():
            self._stop_at = self._clock.monotonic() + self._grace_s
        return self._stop_at is not None and self._clock.monotonic() >= self._stop_at


class AdminSession:
    """An AdminClient with deadlines and clear errors.

    A run may outlive the certificate that it began with, and the client never reads one again. Where brokers can't be reached and
    a file of the login has changed, another client is made. A login that runs out and is renewed (certificates, tokens, tickets),
    and that brokers have taken before, is a cluster that is out of reach for now (ClusterUnavailable) rather than a wrong login.

    Args:
        settings: how to reach the cluster.
        deadline_s: for each call, seconds.
        is_stopped: whether the run is to end: then a call that is waited for ends, too.

    Raises:
        ConfigError: ``client`` holds a property that kbr's promises fix.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        deadline_s: float,
        clock: Clock,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.servers = ",".join(settings.bootstrap_servers)
        self.deadline_s = deadline_s
        self._settings = settings
        self._clock = clock
        self._is_stopped = is_stopped
        self._properties = admin_properties(settings)
        self._log = _ClientLog(clock, settings)
        self._files = SeenFiles(())
        self._client: AdminClient | None = None
        #: Whether brokers have ever answered.
        self._was_let_in = False
        self._mock: bool | None = None
        #: Causes about certificates, and what was seen when somebody looked.
        self._looked_at: dict[Cause, Cause] = {}

    def open(self) -> None:
        """Make the client; it connects when it is first used.

        Raises:
            ConfigError: librdkafka refused a property, or can't log in that way.
            AuthenticationFailed: no token could be had.
        """
        check_client(self._settings)
        # first: what is changed while the client reads it is a change
        self._files = SeenFiles(login_files(self._properties))
        self._client = self._new_client(self._log)

    def _new_client(self, log: _ClientLog) -> AdminClient:
        logger = logging.Logger("kbr.kafka.client")  # noqa: LOG001  (private to this client, never shown)
        logger.addHandler(log)
        properties: dict[str, Any] = {**self._properties, "error_cb": log.note_error}
        tokens = token_source(self._settings)
        if tokens is not None:
            tokens()  # what stands against it is told in the signer's words now, and not as a broker's silence later
            properties["oauth_cb"] = _TokenCallback(tokens, log)
        try:
            return AdminClient(properties, logger=logger)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.SASL_AUTHENTICATION_FAILED:  # confluent_kafka waits for a token
                cause = log.cause()
                raise AuthenticationFailed(
                    f"opening the client of {self.servers}: {'no token could be had' if cause is None else cause.reason}",
                    hint="check the token's source and its settings",
                ) from None
            # no "from": the original's text is the one that may show a secret
            raise ConfigError(
                f"librdkafka refused the client settings: {self._settings.redact(error.args[0].str().strip())}",
                hint="check security and client in the configuration",
            ) from None

    def _is_renewed(self) -> bool:
        """Make another client, if a file of the login has changed since this one was made; whether there is one.

        Files that can't be used are waited for: they may be written one after the other.
        """
        if not self._files.take():
            return False
        log = _ClientLog(self._clock, self._settings)
        try:
            client = self._new_client(log)
        except KbrError as error:
            _log.warning("files of the login to %s have changed, and can't be used yet: %s", self.servers, error)
            return False
        self._client, self._log = client, log
        _log.info("files of the login to %s have changed: connecting anew", self.servers)
        return True

    def close(self) -> None:
        """Leave the brokers; again is fine."""
        self._client = None

    @property
    def principal(self) -> str:
        """As ClientSettings'."""
        return self._settings.principal

    @property
    def client(self) -> AdminClient:
        """The open client."""
        if self._client is None:
            raise RuntimeError("the cluster is not open")
        return self._client

    @property
    def request_timeout_s(self) -> float:
        """For one request, seconds."""
        return min(self.deadline_s, REQUEST_TIMEOUT_S)

    def deadline(self, *, stop_grace_s: float = 0.0, at_most_s: float = math.inf) -> CallDeadline:
        """For one call that begins now.

        Args:
            stop_grace_s: how long it may go on once the run was stopped, seconds.
            at_most_s: how long it may take in any case, seconds.
        """
        seconds = min(self.deadline_s, at_most_s)
        return CallDeadline(seconds, clock=self._clock, is_stopped=self._is_stopped, grace_s=stop_grace_s)

    def is_mock(self) -> bool:
        """Whether it is librdkafka's mock cluster.

        That one answers Metadata and ListOffsets, but no DescribeTopics, DescribeConfigs or CreateTopics: the
        client would wait for a controller in vain.
        """
        if self._mock is None:
            self.metadata()
        return bool(self._mock)

    def metadata(self, deadline: Deadline | None = None) -> Any:
        """Brokers and all topics, fresh; also renews the client's own knowledge of who leads what.

        A broker may be starting, or be the one of three that hangs: it is tried in slices, and each one may ask
        another broker.

        Raises:
            AuthenticationFailed: the brokers refuse the login or the TLS handshake.
            ClusterUnavailable: no connection within 15 s, or no answer within the deadline; or the login has run out.
        """
        limit = deadline or self.deadline()
        begun = self._clock.monotonic()
        slice_s = 1.0
        for delay in Backoff(base_s=0.2, cap_s=2.0).delays():
            timeout_s = max(0.1, min(slice_s, limit.remaining_s()))
            try:
                found = self.call(partial(self._list_topics, timeout_s, limit), "reading metadata", begun=begun)
            except (ClusterUnavailable, AuthenticationFailed) as error:
                waited_s = self._clock.monotonic() - begun
                if error.context.get("given_up"):
                    raise
                if self._is_renewed():
                    continue
                refused = isinstance(error, AuthenticationFailed) and waited_s >= REFUSED_DEADLINE_S
                connected = error.context.get("kafka_code") in _SILENT
                if refused or limit.passed or (not connected and waited_s >= CONNECT_DEADLINE_S):
                    raise
                self._clock.sleep(min(delay, limit.remaining_s()))
                slice_s = min(slice_s * 2, REQUEST_TIMEOUT_S)
                continue
            self._was_let_in = True
            self._mock = str(found.cluster_id or "").startswith(MOCK_CLUSTER_PREFIX)
            return found
        raise AssertionError("the delays are endless")

    def _list_topics(self, timeout_s: float, limit: Deadline) -> Any:
        client = self.client
        answer: Future[Any] = Future()

        def ask() -> None:
            try:
                answer.set_result(client.list_topics(timeout=timeout_s))
            except BaseException as error:  # it is raised where the answer is waited for
                answer.set_exception(error)

        # in a thread of its own, as no signal is heard while the main one is in librdkafka
        threading.Thread(target=ask, name="metadata", daemon=True).start()
        try:
            return self._wait(answer, timeout_s + 5, "reading metadata", limit)
        except KafkaException:
            self.client.poll(0.1)  # the reason why nobody answered may be on its way
            raise

    def call(self, function: Callable[[], _T], doing: str, *, right: str = "", begun: float | None = None) -> _T:
        """Call the client; its exceptions become kbr's.

        Args:
            doing: what is tried, for the message.
            right: the right that it needs, such as ``Describe on topic t``.
            begun: when it was first tried, on the monotonic clock.
        """
        since = self._clock.monotonic() if begun is None else begun
        try:
            return function()
        except KafkaException as error:
            raise self._translated(error.args[0], doing, right, since) from error
        except FutureTimeoutError as error:
            timed_out = KafkaError(KafkaError._TIMED_OUT)
            raise self._translated(timed_out, doing, right, since) from error
        finally:
            self.client.poll(0)  # what the client said, which unserved would gather for ever

    def steadily(self, ask: Callable[[], _T], deadline: Deadline | None = None) -> _T:
        """Ask something that may be asked twice, again after a lost connection, until the deadline.

        librdkafka tries a request again only where it was not sent; an answer that was lost with its connection is an
        error to it (rdkafka_admin.c, RD_KAFKA_RESP_ERR__TRANSPORT).

        Raises:
            ClusterUnavailable: it has not been answered by then.
        """
        limit = deadline or self.deadline()
        for delay in Backoff(base_s=0.2, cap_s=2.0).delays():
            try:
                return ask()
            except ClusterUnavailable as error:
                if limit.passed or error.context.get("kafka_code") not in _PASSING:
                    raise
            self._clock.sleep(min(delay, limit.remaining_s()))
        raise AssertionError("the delays are endless")

    def result(self, future: Future[Any], doing: str, *, right: str = "", deadline: Deadline | None = None) -> Any:
        """What a request gave."""
        if future.done() and future.exception() is None:  # one request's answer for 1,000 partitions comes at once
            return future.result()
        limit = deadline or self.deadline()
        # librdkafka keeps request_timeout itself; the rest is for a client that doesn't
        return self.call(partial(self._wait, future, self.request_timeout_s + 5, doing, limit), doing, right=right)

    def _wait(self, future: Future[_T], seconds: float, doing: str, limit: Deadline) -> _T:
        """The future's result; not for longer than ``seconds``, nor than anybody wants to have it."""
        for _ in range(math.ceil(seconds / LOOK_S)):
            if isinstance(limit, CallDeadline) and limit.is_given_up and not future.done():
                raise ClusterUnavailable(
                    f"{doing}: given up, as the run was stopped", hint="run the same command again", given_up=True
                )
            try:
                return future.result(timeout=LOOK_S)
            except FutureTimeoutError:
                if future.done():
                    raise
        raise FutureTimeoutError

    def _cause(self) -> Cause | None:
        """Why a broker could not be reached; of a certificate, what is wrong with it."""
        cause = self._log.cause()
        if cause is None or cause.reason != CERTIFICATE_REFUSED or not cause.broker:
            return cause
        if cause not in self._looked_at:
            _, reason, check = explain(why_refused(cause.broker, self._settings))
            self._looked_at[cause] = replace(cause, reason=reason, check=check) if reason else cause
        return self._looked_at[cause]

    def _translated(self, error: KafkaError, doing: str, right: str, since: float) -> KbrError:
        self.client.poll(0)  # without waiting: a request for 1,000 partitions may bring 1,000 errors
        cause = self._cause()
        translated = translate(
            error,
            doing,
            servers=self.servers,
            cause=cause,
            right=right,
            principal=self._settings.principal,
            waited_s=self._clock.monotonic() - since,
        )
        if isinstance(translated, AuthenticationFailed) and self._was_let_in and self._is_renewable(error, cause):
            translated = ClusterUnavailable(
                f"{translated.message}; it was let in before",
                hint=f"{translated.hint}; a run that goes on takes up renewed files and tokens by itself",
            )
        translated.context.setdefault("kafka_code", error.code())
        return translated

    def _is_renewable(self, error: KafkaError, cause: Cause | None) -> bool:
        """Whether what was refused may be renewed under a run's feet: no password is, as nobody reads it again."""
        if KafkaError._SSL in {error.code(), None if cause is None else cause.code}:
            return bool(self._files)
        return self._properties.get("sasl.mechanism", "").upper() in _RENEWED
