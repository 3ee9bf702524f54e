"""The faults that kbr has to survive, as docs/reliability.md numbers them. Data only.

P: processes; K: Kafka; S: storage; D: damaged data; R: restores; H: hostile input and secrets.
"""

from __future__ import annotations

__all__ = ["GROUPS", "ROWS"]

GROUPS = {"P": "Processes", "K": "Kafka", "S": "Storage", "D": "Damaged data", "R": "Restores", "H": "Hostile input and secrets"}

ROWS: dict[str, str] = {
    "P1": "SIGKILL of a worker, the supervisor or all processes, in one-shot and continuous backups",
    "P2": "death of the supervisor alone",
    "P3": "a writer paused beyond its lock's life, another one begins, the first wakes up",
    "P4": "two starts on one backup_id at the same moment",
    "P5": "clocks that differ or jump",
    "P6": "signals, freezes, lack of memory of single processes",
    "K1": "a leader killed, brokers restarted one by one, another controller",
    "K2": "network: black hole, reset, loss, delay, little bandwidth",
    "K3": "fetch quotas, empty fetches, slow reads",
    "K4": "a transaction that stays open during the whole run",
    "K5": "aborted, committed and open transactions, control records at the end, holes of compaction",
    "K6": "retention ahead of the backup, before and while it runs",
    "K7": "a topic deleted and made again, with fewer or more records",
    "K8": "partitions and topics that come and go, partitions without a leader",
    "K9": "a log truncated below the position (unclean election)",
    "K10": "a batch that is corrupt on the broker",
    "K11": "tokens that expire, certificates that change",
    "S1": "errors, throttling and timeouts of each storage operation",
    "S2": "the reply to a storage operation is lost",
    "S3": "200 with an error inside, short bodies, stale listings",
    "S4": "a server that stores other bytes than it was sent",
    "S5": "buckets with object lock",
    "S6": "rights taken away in the middle, credentials that can't delete",
    "S7": "disk full, read-only, errors of fsync and rename",
    "S8": "leftovers of killed uploads",
    "S9": "objects that a lifecycle rule removed or archived",
    "S10": "filesystems that ignore case, long names and paths",
    "D1": "truncated, flipped, exchanged segments",
    "D2": "a manifest that is damaged, missing, old or new",
    "D3": "segments, partitions or whole files missing",
    "D4": "wrong bytes made by a bug or by memory, before the upload",
    "R1": "a restore killed, its target's leader killed, the network cut, acknowledgements lost",
    "R2": "records and batches larger than the target takes",
    "R3": "the target's retention and timestamp rules against old records",
    "R4": "a target that is not empty, not ready, or has other partitions",
    "R5": "groups that are active, or stand in holes or beyond the end",
    "R6": "timestamps and header names at the edge of what a client can send",
    "H1": "names and keys that lead elsewhere, links and devices in a store",
    "H2": "YAML bombs",
    "H3": "bombs: claims, windows, depth, counts, Parquet that lies",
    "H4": "secrets in what a run shows or leaves",
    "H5": "terminal escapes, invisible characters and formulas in names and output",
    "H6": "others who ask a running kbr",
}
