"""Run a command as another user, without the right to read other processes: UID, COMMAND...

Keeps only the right to search folders, as the interpreter itself may lie in root's home. With UID ``root``
the user stays, and only the right to trace is given up, as in a container.
"""

import ctypes
import os
import sys

PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 8, 24, 47, 2
CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE = 2, 19
VERSION_3 = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


def call(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "not permitted to change this process's rights")


def become(uid: int) -> None:
    call(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    mask = 1 << CAP_DAC_READ_SEARCH
    header = (ctypes.c_uint32 * 2)(VERSION_3, 0)
    # Effective, permitted and inheritable; then the same for capabilities from 32 on.
    data = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    call(libc.capset(header, data))
    call(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0))


def main() -> None:
    user, *command = sys.argv[1:]
    if user == "root":
        call(libc.prctl(PR_CAPBSET_DROP, CAP_SYS_PTRACE, 0, 0, 0))
    else:
        become(int(user))
    os.execv(command[0], command)


main()
