"""Runs a command in an activated prefix, as rattler's own library activates it.

Usage: python rattler_run.py PREFIX COMMAND...

Prints the seconds from asking for the activation to the end of the command: the interpreter's start is not counted.
"""

import pathlib
import subprocess
import sys
import time

from rattler.platform import Platform
from rattler.shell import ActivationVariables, Shell, activate

start = time.perf_counter()
activated = activate(pathlib.Path(sys.argv[1]), ActivationVariables(None, []), Shell.bash, Platform.current())
subprocess.run(["bash", "-c", activated.script + '\n"$@"', "bash", *sys.argv[2:]], check=True)
print(time.perf_counter() - start)
