# Compiles modules that come in on standard input, and writes the bytecode to standard output. Runs nothing of them.
import marshal
import struct
import sys
from importlib.util import MAGIC_NUMBER


def bytecode(path, mtime_s, source):
    code = compile(source, path, "exec", dont_inherit=True, optimize=-1)
    flags = b"\0\0\0\0" if sys.version_info >= (3, 7) else b""  # PEP 552: by time and size
    return MAGIC_NUMBER + flags + struct.pack("<II", mtime_s, len(source)) + marshal.dumps(code)


def answer(content):
    sys.stdout.buffer.write(struct.pack("<I", len(content)) + content)
    sys.stdout.buffer.flush()


def main():
    answer(sys.implementation.cache_tag.encode())
    while True:
        head = sys.stdin.buffer.read(12)
        if len(head) < 12:
            return
        path_bytes, mtime_s, source_bytes = struct.unpack("<III", head)
        path = sys.stdin.buffer.read(path_bytes).decode("utf-8", "replace")
        source = sys.stdin.buffer.read(source_bytes)
        try:
            content = bytecode(path, mtime_s, source)
        except Exception:  # a template, or written for another Python
            content = b""
        answer(content)


main()
