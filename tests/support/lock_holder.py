"""A run in a process of its own: gets a backup's lock, then writes something as often as its lease allows.

Arguments: storage URL, options as JSON, backup_id, life of the lock (s). Says ``held`` when it has it; ends with the exit code of
what ended it, or 0 at the end of its input.
"""

from __future__ import annotations

import json
import select
import sys

from kbr.errors import KbrError
from kbr.repository.lock import BackupLock, LockTimes, lock_storage
from kbr.runtime.lease import Lease, shared_lease
from kbr.storage import StorageOptions, open_store


def main() -> int:
    url, extra, backup_id, life_s = sys.argv[1:]
    options = StorageOptions(url=url, **json.loads(extra))
    times = LockTimes(life_s=float(life_s), outage_s=30)
    store = open_store(options)
    lease = Lease.create()
    worker = shared_lease(lease.path)
    number = 0
    try:
        with BackupLock(
            open_store(lock_storage(options, times)), backup_id, verb="backup", lease=lease, times=times
        ) as lock:
            lock.acquire()
            print("held", flush=True)
            while not select.select([sys.stdin], [], [], 0.05)[0]:
                worker.check(30)
                store.put(f"{backup_id}/written/{number}", b"x")
                number += 1
            lock.check()
    except KbrError as error:
        print(error.message, flush=True)
        return error.exit_code
    finally:
        lease.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
