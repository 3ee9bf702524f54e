"""Keys and certificates for tests, made by the openssl program: a CA, and what it signs. Nothing here guards anything."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

__all__ = ["Authority", "JwtKey", "Pair"]

_CA_CONFIG = """
[ca]
default_ca = here
[here]
database = {folder}/index.txt
new_certs_dir = {folder}
serial = {folder}/serial
default_md = sha256
default_days = 2
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
"""


def openssl(*arguments: str, given: bytes | None = None) -> bytes:
    """Run openssl; what it prints."""
    done = subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=False)  # noqa: S603, S607
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done.stdout


class Pair:
    """A certificate and its key; ``both`` holds the two of them, as Java's PEM keystores do."""

    def __init__(self, folder: Path, name: str) -> None:
        self.certificate = folder / f"{name}.pem"
        self.key = folder / f"{name}.key"
        self.both = folder / f"{name}.both.pem"

    def join(self) -> Pair:
        """Write the file that holds both."""
        self.both.write_bytes(self.key.read_bytes() + self.certificate.read_bytes())
        return self

    def pkcs12(self, password: str) -> Path:
        """The same as a PKCS12 keystore."""
        store = self.both.with_suffix(".p12")
        openssl("pkcs12", "-export", "-in", str(self.certificate), "-inkey", str(self.key), "-out", str(store), "-passout", f"pass:{password}")
        return store


class Authority:
    """A CA that signs certificates for 127.0.0.1."""

    def __init__(self, folder: Path, name: str = "test-ca") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"
        self._config = folder / "ca.cnf"
        self._config.write_text(_CA_CONFIG.format(folder=folder))
        (folder / "index.txt").touch()
        (folder / "serial").write_text("01\n")
        openssl("req", "-x509", *_new_key(self._key), "-out", str(self.certificate), "-days", "2", "-subj", f"/CN={name}")

    def sign(self, name: str, *, host: str = "IP:127.0.0.1", start: str = "", end: str = "") -> Pair:
        """A certificate with its key.

        Args:
            name: its CN.
            host: its subjectAltName.
            start, end: as YYYYMMDDHHMMSSZ; from now on for two days without them.
        """
        pair = Pair(self.folder, name)
        request = self.folder / f"{name}.csr"
        openssl("req", *_new_key(pair.key), "-out", str(request), "-subj", f"/CN={name}", "-addext", f"subjectAltName={host}")
        period = ["-startdate", start, "-enddate", end] if start else []
        openssl(
            *("ca", "-batch", "-notext", "-config", str(self._config), *period),
            *("-cert", str(self.certificate), "-keyfile", str(self._key), "-in", str(request), "-out", str(pair.certificate)),
        )
        return pair.join()


def _new_key(path: Path) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(path)]


class JwtKey:
    """An RSA key that signs JSON Web Tokens (RFC 7519, RS256), and tells its public half (RFC 7517)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._key = folder / "jwt.key"
        openssl("genrsa", "-out", str(self._key), "2048")

    def jwks(self) -> bytes:
        """What a broker checks tokens with."""
        modulus = openssl("rsa", "-in", str(self._key), "-noout", "-modulus").decode().strip().partition("=")[2]
        key = {"kty": "RSA", "kid": "1", "use": "sig", "alg": "RS256", "e": "AQAB", "n": _base64(bytes.fromhex(modulus))}
        return json.dumps({"keys": [key]}).encode()

    def sign(self, claims: dict[str, object]) -> str:
        """A token with these claims."""
        parts = [_base64(json.dumps(part).encode()) for part in ({"alg": "RS256", "kid": "1", "typ": "JWT"}, claims)]
        text = ".".join(parts)
        return f"{text}.{_base64(openssl('dgst', '-sha256', '-sign', str(self._key), given=text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
