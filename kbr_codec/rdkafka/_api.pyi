from ._events import Property

__all__ = [
    "MINIMUM_VERSION",
    "ClientConfigError",
    "LibraryError",
    "builtin_features",
    "has_property",
    "known_properties",
    "library_version",
    "load",
]

MINIMUM_VERSION: int

class LibraryError(RuntimeError): ...

class ClientConfigError(ValueError):
    name: str
    reason: str
    def __init__(self, name: str, reason: str) -> None: ...

def load(path: str) -> str: ...
def library_version() -> str: ...
def builtin_features() -> frozenset[str]: ...
def has_property(name: str) -> bool: ...
def known_properties() -> dict[str, Property]: ...
