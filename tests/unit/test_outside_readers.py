"""What readers from outside say, and why they may not: parsed and explained without a process."""

import pytest

from glasspool.observe import own_stacks, procfs, pyspy, pystack, readers, rights, sampling
from glasspool.observe.pyspy import CFrame
from glasspool.snapshot import Frame

STATUS = procfs.Status(
    uids=(1000,) * 4,
    gids=(1000,) * 4,
    tracer=None,
    pending=0,
    blocked=0,
    ignored=0,
    caught=0,
    cap_permitted=0,
    cap_effective=0,
    no_new_privs=False,
    seccomp=0,
)

DUMP = """\
Stack dump for PID 7, thread 7 (main thread, has GIL; most recent call last):
  File "/srv/app.py", line 9, in <module>
    main()
  File "/srv/app.py", line 5, in Job.<locals>.main  opcode=CALL
  File "<frozen runpy>", in run

Stack dump, thread 8 (idle; most recent call last):
No Python frames
"""


def test_a_dump_of_the_standard_librarys_sampler_is_read():
    """Headers and frames count; source lines and what is not known are left out."""
    main, other = sampling.parse(DUMP)
    assert (main.native_id, main.name, main.owns_gil) == (7, "MainThread", True)
    assert main.stack == (
        Frame("/srv/app.py", 9, "<module>"),
        Frame("/srv/app.py", 5, "Job.<locals>.main"),
        Frame("<frozen runpy>", 0, "run"),
    )
    assert len(main.variables) == 3
    assert (other.native_id, other.owns_gil, other.stack) == (8, False, ())
    assert sampling.parse('something else\n  File "x", line 1, in y\n') == ()


@pytest.mark.parametrize("version", [None, "3.11", "3.14", "3.99"])
def test_the_sampler_is_used_only_where_there_is_one(version):
    """Versions without it, and those that are not installed, have none."""
    assert sampling._program(version) is None


def test_the_telling_call_of_a_c_stack():
    """The way from Python into a library tells nothing; names tell more than addresses."""
    assert pyspy.telling_call(
        [
            CFrame("PyCFuncPtr_call", "/lib/_ctypes.so"),
            CFrame("ffi_call", "/lib/libffi.so.8"),
            CFrame("0x7f12", "/lib/libffi.so.8"),
            CFrame("usleep", "/lib/libc.so.6"),
            CFrame("clock_nanosleep", "/lib/libc.so.6"),
        ]
    ) == CFrame("usleep", "/lib/libc.so.6")
    assert pyspy.telling_call(
        [CFrame("_PyObject_Call", "/lib/libpython3.12.so"), CFrame("time_sleep", "/bin/python3.12")]
    ) == CFrame("time_sleep", "/bin/python3.12")
    assert pyspy.telling_call([CFrame("0x1", "/lib/a.so")]) == CFrame("0x1", "/lib/a.so")
    assert pyspy.telling_call([]) is None


PYSTACK = """\
Traceback for thread 8 (python) [] (most recent call last):
    (Python) File "/srv/app.py", line 3, in beside
    (C) File "time.c", line 2, in time_sleep (/lib/libpython3.12.so)

Traceback for thread 7 (python) [Has the GIL] (most recent call last):
    (C) File "???", line 0, in _start (/bin/python3.12)
    (Python) File "/srv/app.py", line 18, in task
        sum(range(10**11))
    (C) File "bltinmodule.c.h", line 1337, in builtin_sum (/lib/libpython3.12.so)
    (C) File "bltinmodule.c", line 2544, in std::max(int, int) (inlined) (/lib/libpython3.12.so)
    (C) File "/lib/libpython3.12.so", line 0, in ??? (/lib/libpython3.12.so)
"""


def test_c_calls_in_pystacks_words_are_read():
    """Of one thread, above its last Python frame, without what has no name."""
    library = "/lib/libpython3.12.so"
    assert pystack.parse(PYSTACK, 7) == (
        CFrame("builtin_sum", library),
        CFrame("std::max(int, int)", library),
    )
    assert pystack.parse(PYSTACK, 8) == (CFrame("time_sleep", library),)
    assert pystack.parse(PYSTACK, 9) == ()


@pytest.mark.parametrize("output", [b"", b"{}", b'[{"a": 1}, 2]', b"nonsense"])
def test_an_answer_that_is_not_understood_is_a_note(output):
    """An unknown format is `unreadable`, never an exception."""
    told = pyspy._dump_of(1, readers.Answer(output=output, code=0), paused=False)
    assert (told.refusal, told.threads) == ("unreadable", ())


def test_values_are_told_as_py_spy_tells_them():
    """Built-in types by their contents, cut; all else by type and address, without its own words."""

    class Loud:
        def __repr__(self):
            raise AssertionError("a user's __repr__ ran")

    assert own_stacks.text_of((1, "a", None, [True, 2.5])) == '(1, "a", None, [True, 2.5])'
    assert own_stacks.text_of({"k": {1}}) == '{"k": {1}}'
    assert own_stacks.text_of(Loud()).startswith("<Loud at 0x")
    assert own_stacks.text_of(list(range(1000))).endswith(", ...]")
    assert len(own_stacks.text_of(["x" * 900] * 1000)) < 2500
    assert own_stacks.text_of(10**10000) == "<int>"


@pytest.mark.parametrize(
    ("target", "own", "yama", "cause"),
    [
        ({"uids": (1,) * 4}, {}, 0, "user"),
        ({"uids": (1000, 0, 0, 0)}, {}, 0, "user"),
        ({"gids": (1,) * 4}, {}, 0, "user"),
        ({"cap_permitted": 1}, {}, 0, "capabilities"),
        ({}, {}, 1, "yama"),
        ({"cap_permitted": 1}, {}, 1, "capabilities"),
        ({"uids": (1,) * 4}, {"cap_effective": 1 << 19}, 0, "unknown"),
        ({}, {"cap_effective": 1 << 19}, 1, "unknown"),
        ({}, {"cap_effective": 1 << 19}, 3, "yama"),
        ({}, {}, 0, "unknown"),
    ],
)
def test_the_cause_of_a_denial_is_looked_for_in_the_kernels_order(
    monkeypatch, target, own, yama, cause
):
    """Ids, then protection, then capabilities, then Yama; the right to trace lifts all but the last."""
    told = {1: STATUS._replace(**target)}
    monkeypatch.setattr(procfs, "status", lambda pid: told.get(pid, STATUS._replace(**own)))
    monkeypatch.setattr(rights, "is_readable", lambda pid: False)
    monkeypatch.setattr(rights, "_is_protected", lambda pid, status: False)
    monkeypatch.setattr(rights, "_namespace", lambda pid: "user:[1]")
    monkeypatch.setattr(rights, "yama_scope", lambda: yama)
    found = rights.explain(1)
    assert found.cause == cause
    assert found.remedy in str(found)
    assert "\n" not in str(found)


@pytest.mark.parametrize(("seccomp", "cause"), [(2, "seccomp"), (0, "files")])
def test_what_the_kernel_permits_may_fail_for_other_causes(monkeypatch, seccomp, cause):
    """A reader can be refused although the process itself may be read."""
    monkeypatch.setattr(procfs, "status", lambda pid: STATUS._replace(seccomp=seccomp))
    monkeypatch.setattr(rights, "is_readable", lambda pid: True)
    assert rights.explain(1).cause == cause
