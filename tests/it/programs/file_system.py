"""What programs ask of file systems, in a writable environment at sys.argv[1]; an assertion fails where it is refused."""

import errno
import fcntl
import mmap
import os
import sqlite3
import subprocess
import sys

prefix = sys.argv[1]
own = os.path.join(prefix, "own")
os.makedirs(own)


def given(path):
    """A file of the environment."""
    return os.path.join(prefix, "lib/python3.12", path)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, content, mode="wb"):
    with open(path, mode) as file:
        file.write(content)


# Directories: own ones are renamed; those of the environment too, or mv copies them.
os.mkdir(own + "/a")
write(own + "/a/f", b"x")
os.rename(own + "/a", own + "/b")
assert read(own + "/b/f") == b"x"
try:
    os.rename(given("json"), given("renamed"))
    os.rename(given("renamed"), given("json"))
    print("renaming a directory of the environment: works")
except OSError as error:
    print("renaming a directory of the environment:", errno.errorcode[error.errno])
subprocess.run(["mv", given("json"), given("renamed")], check=True)
subprocess.run(["mv", given("renamed"), given("json")], check=True)
assert os.path.isfile(given("json/decoder.py"))

# Modes, times, extended attributes.
os.chmod(given("os.py"), 0o755)
assert os.stat(given("os.py")).st_mode & 0o777 == 0o755
os.chmod(given("os.py"), 0o644)
os.setxattr(given("ast.py"), "user.note", b"value")
assert os.getxattr(given("ast.py"), "user.note") == b"value"
assert os.listxattr(given("ast.py")) == ["user.note"]
os.utime(own + "/b/f", (1, 2))
assert os.stat(own + "/b/f").st_mtime == 2

# Mapped writes; a file keeps its number when it is first written.
number = os.stat(given("abc.py")).st_ino
first = read(given("abc.py"))[:1]
with open(given("abc.py"), "r+b") as file:
    mapped = mmap.mmap(file.fileno(), 0)
    mapped[0:1] = b"Z"
    mapped.flush()
    mapped.close()
assert read(given("abc.py"))[:1] == b"Z"
write(given("abc.py"), first, "r+b")
assert os.stat(given("abc.py")).st_ino == number

# Holes and room that is set aside.
with open(own + "/holes", "wb") as file:
    file.seek(1 << 30)
    file.write(b"e")
state = os.stat(own + "/holes")
assert state.st_size == (1 << 30) + 1 and state.st_blocks * 512 < 1 << 20, state
file = os.open(own + "/room", os.O_CREAT | os.O_RDWR)
os.posix_fallocate(file, 0, 1 << 16)
assert os.fstat(file).st_size == 1 << 16
os.close(file)

# Links: hard, symbolic, and of a file that had no name.
os.link(own + "/b/f", own + "/b/g")
write(own + "/b/g", b"y", "ab")
assert read(own + "/b/f") == b"xy" and os.stat(own + "/b/f").st_nlink == 2
os.link(given("bdb.py"), own + "/bdb.py")
assert read(own + "/bdb.py") == read(given("bdb.py"))
os.symlink("b/f", own + "/symbolic")
assert read(own + "/symbolic") == b"xy"
file = os.open(own, os.O_TMPFILE | os.O_RDWR, 0o644)
os.write(file, b"nameless")
# A directory is named so that the call follows the link in /proc.
os.link(f"/proc/self/fd/{file}", own + "/named", src_dir_fd=os.open("/", os.O_RDONLY), follow_symlinks=True)
os.close(file)
assert read(own + "/named") == b"nameless"
file = open(own + "/gone", "w+")
os.unlink(own + "/gone")
file.write("still there")
file.seek(0)
assert file.read() == "still there"

# Locks exclude other processes.
TRY = """
import fcntl, sys
file = open(sys.argv[1], "w")
try:
    fcntl.{}(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("free")
except OSError:
    print("held")
"""
for lock in (fcntl.flock, fcntl.lockf):
    with open(own + "/lock", "w") as file:
        lock(file, fcntl.LOCK_EX)
        command = [sys.executable, "-c", TRY.format(lock.__name__), own + "/lock"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "held\n"

# A write-ahead log is shared memory between two connections.
one = sqlite3.connect(own + "/base.db")
assert one.execute("pragma journal_mode=wal").fetchone()[0] == "wal"
one.execute("create table t (n)")
one.commit()
other = sqlite3.connect(own + "/base.db")
other.execute("insert into t values (1)")
other.commit()
assert one.execute("select count(*) from t").fetchone()[0] == 1
other.close()
one.close()

# What was mapped before a file of the environment was first written keeps the old bytes; reads do not (overlayfs.rst).
reader = open(given("cmd.py"), "rb", buffering=0)
mapped = mmap.mmap(reader.fileno(), 0, prot=mmap.PROT_READ)
old = mapped[:1]
write(given("cmd.py"), b"#", "r+b")
assert mapped[:1] == old != b"#"
assert reader.read(1) == b"#" and read(given("cmd.py"))[:1] == b"#"
write(given("code.py"), b"\n", "ab")
