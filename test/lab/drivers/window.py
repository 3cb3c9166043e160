"""Reads, maps, holds, changes and removes files of the image, in a container: window.py [KEEP]

Prints JSON: what each step has seen. KEEP, "keep": maps files, says so, and looks at them when there is /go.
"""

import ctypes
import hashlib
import json
import mmap
import os
import shutil
import sys
import time

LIBRARY = "/usr/lib/x86_64-linux-gnu"
with open("/proc/self/maps") as maps:
    OWN = maps.read()
# Libraries that nothing here runs on.
FILES = sorted(
    (os.path.getsize(path), path)
    for path in (f"{LIBRARY}/{name}" for name in os.listdir(LIBRARY) if ".so." in name)
    if not os.path.islink(path) and path not in OWN and os.path.getsize(path) < 4 << 20
)
libc = ctypes.CDLL(None, use_errno=True)
PAGE = 4096


def choose(at):
    """A file of its own for each step."""
    return FILES[-1 - at][1]


def digest(data):
    return hashlib.sha256(data).hexdigest()


def kib(mapping, what="Rss"):
    """From /proc/self/smaps: of the mapping, KiB that are pages of the guest's."""
    start = address(mapping)
    found = False
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            if "-" in line.split(" ")[0]:
                found = int(line.split("-")[0], 16) == start
            elif found and line.startswith(what + ":"):
                return int(line.split()[1])
    return None


def address(mapping):
    pointer = ctypes.py_object(mapping)

    class Buffer(ctypes.Structure):
        _fields_ = [
            ("buf", ctypes.c_void_p),
            ("obj", ctypes.py_object),
            ("len", ctypes.c_ssize_t),
            ("itemsize", ctypes.c_ssize_t),
            ("readonly", ctypes.c_int),
            ("ndim", ctypes.c_int),
            ("format", ctypes.c_char_p),
            ("shape", ctypes.c_void_p),
            ("strides", ctypes.c_void_p),
            ("suboffsets", ctypes.c_void_p),
            ("internal", ctypes.c_void_p),
        ]

    got = Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(pointer, ctypes.byref(got), 0)
    result = got.buf
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(got))
    return result


def mapped(path, shared=True):
    with open(path, "rb") as file:
        flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
        prot = mmap.PROT_READ | (0 if shared else mmap.PROT_WRITE)
        return mmap.mmap(file.fileno(), 0, flags=flags, prot=prot)


def contents(path):
    with open(path, "rb") as file:
        return file.read()


def reads_and_maps():
    path = choose(0)
    mapping = mapped(path)
    same = digest(mapping) == digest(contents(path))
    return [same, kib(mapping)]


def private_changes_stay():
    path = choose(1)
    before = contents(path)
    mapping = mapped(path, shared=False)
    unread = mapped(path, shared=False)
    untouched = mapping[PAGE]
    mapping[PAGE] = untouched ^ 1
    unread[2 * PAGE + 5] = 7
    rest = unread[2 * PAGE : 2 * PAGE + 5] == before[2 * PAGE : 2 * PAGE + 5]
    return [mapping[PAGE] == untouched ^ 1, unread[2 * PAGE + 5], rest, contents(path) == before]


def pages_can_be_held():
    path = choose(2)
    before = contents(path)
    mapping = mapped(path)
    first = mapping[0]
    # Without a copy: the server gets the pages themselves.
    out = os.open("/volume/out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT)
    length = 1 << 17
    wrote = libc.write(out, ctypes.c_void_p(address(mapping)), ctypes.c_size_t(length))
    os.close(out)
    return [wrote, contents("/volume/out") == before[:length], kib(mapping) > 0, first == before[0]]


def debuggers_read():
    path = choose(3)
    before = contents(path)
    mapping = mapped(path)
    touched = mapping[0]
    with open("/proc/self/mem", "rb") as memory:
        memory.seek(address(mapping))
        by_mem = memory.read(3 * PAGE) == before[: 3 * PAGE]

    class Iovec(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    path = choose(4)
    before = contents(path)
    mapping = mapped(path)
    touched += mapping[0]
    buffer = ctypes.create_string_buffer(2 * PAGE)
    local = Iovec(ctypes.addressof(buffer), 2 * PAGE)
    remote = Iovec(address(mapping), 2 * PAGE)
    got = libc.process_vm_readv(
        os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0
    )
    return [by_mem, got, buffer.raw == before[: 2 * PAGE]]


def changes_are_seen():
    path = choose(5)
    before = contents(path)
    mapping = mapped(path)
    reader = open(path, "rb", buffering=0)
    seen = [mapping[PAGE] == before[PAGE], reader.read(1) == before[:1]]
    writer = os.open(path, os.O_WRONLY)
    os.pwrite(writer, b"changed", PAGE)
    reader.seek(PAGE)
    seen += [mapping[PAGE : PAGE + 7] == b"changed", reader.read(7) == b"changed"]
    seen += [mapping[3 * PAGE : 5 * PAGE] == before[3 * PAGE : 5 * PAGE]]
    os.close(writer)
    expected = before[:PAGE] + b"changed" + before[PAGE + 7 :]
    return seen + [contents(path) == expected, digest(mapping) == digest(expected)]


def sizes_change():
    path = choose(6)
    before = contents(path)
    mapping = mapped(path)
    seen = [mapping[0] == before[0]]
    os.truncate(path, PAGE + 1)
    os.truncate(path, 3 * PAGE)
    expected = before[: PAGE + 1] + bytes(2 * PAGE - 1)
    return seen + [mapping[: 3 * PAGE] == expected, contents(path) == expected]


def removed_files_stay():
    path = choose(7)
    before = contents(path)
    mapping = mapped(path)
    first = mapping[0] == before[0]
    os.unlink(path)
    return [first, digest(mapping) == digest(before), os.path.exists(path)]


def replaced_files_are_new():
    path = choose(8)
    before = contents(path)
    mapping = mapped(path)
    first = mapping[0] == before[0]
    with open(path + ".new", "wb") as new:
        new.write(b"n" * len(before))
    os.rename(path + ".new", path)
    return [first, digest(mapping) == digest(before), contents(path) == b"n" * len(before)]


def owners_change():
    path = choose(9)
    before = contents(path)
    mapping = mapped(path)
    first = mapping[0] == before[0]
    os.chmod(path, 0o600)
    os.chown(path, 7, 8)
    again = mapped(path)
    return [first, digest(mapping) == digest(before), digest(again) == digest(before)]


def copies_run():
    shutil.copy("/usr/bin/env", "/usr/local/bin/env2")
    return os.system("/usr/local/bin/env2 true && exec /usr/local/bin/env2 -i true")


def keep():
    kept = [mapped(choose(10)), mapped(choose(11)), mapped(choose(12))]
    before = [digest(contents(choose(10 + i))) for i in range(3)]
    touched = kept[0][0] + kept[1][0] + kept[2][0]
    os.unlink(choose(11))
    os.chmod(choose(12), 0o600)
    print("ready", touched >= 0, flush=True)
    while not os.path.exists("/go"):
        time.sleep(0.05)
    after = [digest(mapping) for mapping in kept]
    again = digest(contents(choose(10)))
    print(json.dumps([after == before, again == before[0], kib(kept[0])]), flush=True)


if sys.argv[1:] == ["keep"]:
    keep()
else:
    STEPS = [
        *(reads_and_maps, private_changes_stay, pages_can_be_held, debuggers_read),
        *(changes_are_seen, sizes_change, removed_files_stay, replaced_files_are_new),
        *(owners_change, copies_run),
    ]
    print(json.dumps({step.__name__: step() for step in STEPS}))
