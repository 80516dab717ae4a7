"""Linux: a process that from now on may compute, and read and write what it has open, and no more.

No file can be opened, no connection made, no program or process started: the kernel refuses every
system call that is not in the list below, whatever code makes it. Whoever must still open files may
be let to open them for reading. It needs no rights, and it cannot be undone. Elsewhere there is no
such thing here, and whoever asks is told so.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER, FLAG_ALL_THREADS = 1, 1
LOAD, JUMP_IF_EQUAL, JUMP_IF_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 1  # as if it were not permitted (EPERM)
NUMBER_AT, MACHINE_AT, THIRD_AT = 0, 4, 32  # in what the kernel shows a filter
# Of the third argument of openat: to write, to make, to empty, to make without a name.
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# Memory, time, signals to handle, reading and writing what is open, and ending.
NAMES = (
    "read", "write", "readv", "writev", "pread64", "pwrite64", "lseek", "fstat", "ftruncate",
    "close", "fcntl", "mmap", "munmap", "mremap", "mprotect", "madvise", "brk", "futex",
    "sched_yield", "sched_getaffinity", "clock_gettime", "clock_nanosleep", "nanosleep",
    "gettimeofday", "getrandom", "getpid", "gettid", "getrusage", "rt_sigaction", "rt_sigprocmask",
    "rt_sigreturn", "sigaltstack", "restart_syscall", "exit", "exit_group",
)  # fmt: skip
# And these to find and open files, for reading; openat is looked at more closely.
READING = (
    "newfstatat", "statx", "stat", "lstat", "getdents64", "readlinkat", "readlink", "faccessat",
    "access", "getcwd", "openat",
)  # fmt: skip
# The machine's mark, the number of seccomp, and those of the names above; -1 where there is none.
MACHINES = {
    "x86_64": (
        0xC000003E, 317,
        (0, 1, 19, 20, 17, 18, 8, 5, 77, 3, 72, 9, 11, 25, 10, 28, 12, 202, 24, 204, 228, 230, 35,
         96, 318, 39, 186, 98, 13, 14, 15, 131, 219, 60, 231),
        (262, 332, 4, 6, 217, 267, 89, 269, 21, 79, 257),
    ),
    "aarch64": (
        0xC00000B7, 277,
        (63, 64, 65, 66, 67, 68, 62, 80, 46, 57, 25, 222, 215, 216, 226, 233, 214, 98, 124, 123,
         113, 115, 101, 169, 278, 172, 178, 165, 134, 135, 139, 132, 128, 93, 94),
        (79, 291, -1, -1, 61, 78, -1, 48, -1, 17, 56),
    ),
}  # fmt: skip


class NoJail(Exception):
    """This machine cannot lock a process in; nothing was changed."""


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def lock_in(*, may_read: bool = False) -> None:
    """For all threads of this process, for good. Raises NoJail where that is impossible."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        raise NoJail(f"{platform.system()} on {platform.machine()} is not supported")
    mark, seccomp, numbers, reading = MACHINES[platform.machine()]
    program = _program(mark, numbers, reading if may_read else ())
    libc = ctypes.CDLL(None, use_errno=True)
    asked = _Program(len(program) // 8, program)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(
        seccomp, SECCOMP_SET_MODE_FILTER, FLAG_ALL_THREADS, ctypes.byref(asked)
    ):
        raise NoJail(os.strerror(ctypes.get_errno()))


def _program(mark: int, numbers: tuple[int, ...], reading: tuple[int, ...]) -> bytes:
    """Another machine's calls have other numbers, so its mark goes first."""
    assert len(numbers) == len(NAMES) and len(reading) in (0, len(READING))
    *plain, opening = reading or (-1,)
    allowed = [number for number in (*numbers, *plain) if number >= 0]
    lines = [(LOAD, 0, 0, MACHINE_AT), (JUMP_IF_EQUAL, 1, 0, mark), (RETURN, 0, 0, REFUSE)]
    lines += [(LOAD, 0, 0, NUMBER_AT)]
    left = len(allowed) + 3 * bool(reading)
    for number in allowed:
        lines.append((JUMP_IF_EQUAL, left, 0, number))  # to the last line
        left -= 1
    if reading:
        lines += [
            (JUMP_IF_EQUAL, 0, 2, opening),
            (LOAD, 0, 0, THIRD_AT),
            (JUMP_IF_ANY_BIT, 0, 1, WRITING),
        ]
    lines += [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *line) for line in lines)
