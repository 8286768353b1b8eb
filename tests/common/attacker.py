"""Attacks every process that appears in its pid namespace, until its standard input ends.

For each new pid, over and over until it is an ordinary program: ptrace, pidfd_getfd, and what /proc tells and opens.
Prints LEAK for whatever belongs to the host, and at the end how often it was refused by a process that had not
executed its program yet, and how many ordinary ones it attached to.
"""
import ctypes, os, re, select, sys

libc = ctypes.CDLL(None, use_errno=True)
SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17
STAGE = re.compile("^[a-z]{15}$")
HOST = re.compile("palisade|socket:|CARGO|NEXTEST")
met, refused, attached = set(), 0, 0


def leak(pid, what, value):
    print("LEAK", pid, what, repr(value)[:300], flush=True)


def read(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 65536).decode("latin-1")
    finally:
        os.close(fd)


def is_stage(pid):
    return bool(STAGE.match(read("/proc/%d/comm" % pid).strip()))


def getfd(pid):
    pidfd = libc.syscall(434, pid, 0)
    if pidfd < 0:
        return
    try:
        for number in range(12):
            fd = libc.syscall(438, pidfd, number, 0)
            if fd >= 0:
                target = os.readlink("/proc/self/fd/%d" % fd)
                os.close(fd)
                if HOST.search(target):
                    leak(pid, "fd %d" % number, target)
            elif ctypes.get_errno() == 1:
                raise PermissionError
    finally:
        os.close(pidfd)


def trace(pid):
    global attached
    if libc.ptrace(SEIZE, pid, 0, 0) != 0:
        if ctypes.get_errno() == 1:
            raise PermissionError
        return
    # What it is, is looked at while it is held.
    try:
        if is_stage(pid) or "memfd" in os.readlink("/proc/%d/exe" % pid):
            leak(pid, "ptrace", os.readlink("/proc/%d/exe" % pid))
        attached += 1
    finally:
        libc.ptrace(INTERRUPT, pid, 0, 0)
        os.waitpid(pid, 0x40000000)
        libc.ptrace(DETACH, pid, 0, 0)


def link(name):
    def attack(pid):
        target = os.readlink("/proc/%d/%s" % (pid, name))
        if HOST.search(target) or name in ("root", "cwd") and target != "/":
            leak(pid, name, target)

    return attack


def text(name):
    def attack(pid):
        before = is_stage(pid)
        content = read("/proc/%d/%s" % (pid, name))
        if name == "cmdline" and content == "palisade-stage\0":
            return  # all that there is to see of it
        if HOST.search(content) or before and is_stage(pid) and name in ("environ", "maps", "auxv"):
            leak(pid, name, content)

    return attack


def memory(pid):
    before = is_stage(pid)
    fd = os.open("/proc/%d/mem" % pid, os.O_RDWR)
    os.close(fd)
    if before and is_stage(pid):
        leak(pid, "mem", "opened")


def reopen(pid):
    for number in range(3, 12):
        try:
            fd = os.open("/proc/%d/fd/%d" % (pid, number), os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            continue
        target = os.readlink("/proc/self/fd/%d" % fd)
        os.close(fd)
        if HOST.search(target) or is_stage(pid):
            leak(pid, "fd/%d opened" % number, target)


ATTACKS = [trace, getfd, memory, reopen, link("exe"), link("cwd"), link("root"), link("fd/3"), link("fd/4")]
ATTACKS += [text(name) for name in ("environ", "maps", "auxv", "mountinfo", "cmdline", "stack", "syscall")]


def attack(pid):
    global refused
    met.add(pid)
    for turn in range(40):
        try:
            stage = is_stage(pid)
        except OSError:
            return
        for one in ATTACKS:
            try:
                one(pid)
            except PermissionError:
                refused += stage
            except OSError:
                pass
        if not stage:
            return


def newest():
    return int(read("/proc/loadavg").split()[-1])


other = os.fork()
last = newest()  # neither attacks the other
if other == 0:
    # Looks at what /proc lists; the other one guesses the next pids, and is there first.
    try:
        while os.getppid() == 1:
            for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
                if pid > last:
                    last = pid
                    attack(pid)
    finally:
        os._exit(0)
print("READY", flush=True)
turn = 0
while True:
    for pid in range(last + 1, last + 4):
        try:
            os.kill(pid, 0)
        except PermissionError:
            pass
        except OSError:
            continue
        attack(pid)
        last = pid
    turn += 1
    if turn % 20 == 0:
        last = max(last, newest() - 1)
    if turn % 200 == 0 and select.select([0], [], [], 0)[0]:
        break
print("MET", len(met), "REFUSED", refused, "ATTACHED", attached, flush=True)
