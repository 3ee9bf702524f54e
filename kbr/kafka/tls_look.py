"""Why a broker's certificate was not accepted: librdkafka says that it was not, and no more.

Looks once for itself, with Python's own TLS, at what the broker shows, with the same CA and the same rules. Only ever
after librdkafka has refused it; what is found here is a sentence, and never lets anything through.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from kbr.kafka.settings import ClientSettings

__all__ = ["why_refused"]

#: How long looking may take, seconds.
TIMEOUT_S = 3.0


def why_refused(broker: str, settings: ClientSettings) -> str:
    """OpenSSL's words about the certificate of ``host:port``; empty where nothing is wrong with it, or nothing was seen."""
    host, _, port = broker.rpartition(":")
    host = host.strip("[]")
    client = settings.client
    location = client.get("ssl.ca.location", settings.ssl_ca_location)
    try:
        context = ssl.create_default_context()
        if location:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if Path(location).is_dir():
                context.load_verify_locations(capath=location)
            else:
                context.load_verify_locations(cafile=location)
        elif "ssl.ca.pem" in client:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=client["ssl.ca.pem"])
        algorithm = client.get("ssl.endpoint.identification.algorithm", settings.ssl_endpoint_identification_algorithm)
        context.check_hostname = algorithm != "none"
        with (
            socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return str(error.verify_message)
    except (OSError, ValueError):  # whatever else is wrong, librdkafka has said it
        return ""
