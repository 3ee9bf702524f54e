from kbr.app.reading import open_backup as open_backup

__all__ = ["__version__", "open_backup"]

__version__: str
