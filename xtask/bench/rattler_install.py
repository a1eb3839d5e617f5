"""Installs records into a prefix with rattler's own installer, from a warm package cache.

Usage: python rattler_install.py CHANNEL CACHE_DIR PREFIX MATCHSPEC...

Prints the seconds that the installer alone took: neither the interpreter's start nor the solve is counted.
"""

import asyncio
import os
import sys
import time

import rattler


async def main(channel, cache, prefix, specs):
    records = await rattler.solve(
        [channel],
        specs,
        gateway=rattler.Gateway(cache_dir=f"{cache}/repodata"),
        platforms=["linux-64", "noarch"],
        virtual_packages=rattler.VirtualPackage.detect(),
    )
    start = time.perf_counter()
    await rattler.install(records, target_prefix=prefix, cache_dir=f"{cache}/pkgs", show_progress=False)
    print(time.perf_counter() - start)


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]))
sys.stdout.flush()
# Threads of the library may still let go of the interpreter, which aborts if it is on its way out then.
os._exit(0)
