# What all attacks use. An attack is a function that returns what it met, as a word or a few.
import array, ctypes, errno, fcntl, json, os, resource, select, signal, socket, struct, subprocess, sys, threading, time

LIBC = ctypes.CDLL(None, use_errno=True)
# The same numbers on every architecture.
PIDFD_SEND_SIGNAL, PIDFD_OPEN, PIDFD_GETFD, PROCESS_MADVISE, PROCESS_MRELEASE = 424, 434, 438, 440, 448
# As in the harness.
SLOWNESS = int(os.environ.get("SKD_TEST_SLOWNESS", "1"))
X86 = os.uname().machine == "x86_64"
# ptrace, rt_sigqueueinfo, process_vm_readv, process_vm_writev, kcmp, ioprio_set, keyctl, tee, vmsplice, perf_event_open,
# move_pages, migrate_pages, get_robust_list, sched_setattr, clone, mq_open, fanotify_init, setns, rt_tgsigqueueinfo
(PTRACE, SIGQUEUE, READV, WRITEV, KCMP, IOPRIO, KEYCTL, TEE, VMSPLICE, PERF, MOVE_PAGES, MIGRATE, ROBUST, SETATTR, CLONE,
 MQ_OPEN, FANOTIFY, SETNS, TGSIGQUEUE) = (
    (101, 129, 310, 311, 312, 251, 250, 276, 278, 298, 279, 256, 274, 314, 56, 240, 300, 308, 297) if X86 else
    (117, 138, 270, 271, 272, 30, 219, 77, 75, 241, 239, 238, 100, 274, 220, 180, 262, 268, 240))


def name(number):
    return errno.errorcode.get(number, str(number))


def call(number, *arguments):
    """The result of a system call by its number: "done", or the name of the error."""
    words = [a if isinstance(a, (bytes, ctypes.Array)) else ctypes.c_long(a) for a in arguments]
    return "done" if LIBC.syscall(ctypes.c_long(number), *words) >= 0 else name(ctypes.get_errno())


def tried(function, *arguments):
    try:
        function(*arguments)
        return "done"
    except OSError as error:
        return name(error.errno)
    except ValueError:  # How Python tells of a limit that may not be raised.
        return "EPERM"


def all_met(tries, *expected):
    """Whether each of these tries was refused in an expected way. Tells which was not."""
    odd = [f"{what}: {met}" for what, met in tries if met not in expected]
    return ", ".join(odd) or "refused"


def served(context, wait=20):
    """An honest client of the first TCP or unix listener."""
    client = stream(context, wait)
    client.sendall(b'{"attack": "echo"}\n')
    client.shutdown(socket.SHUT_WR)
    answer = b""
    while part := client.recv(4096):
        answer += part
    return "served" if answer == b"echo" else repr(answer)


def stream(context, wait=20, kind=socket.SOCK_STREAM):
    if context.get("path"):
        client = socket.socket(socket.AF_UNIX, kind)
        client.settimeout(wait * SLOWNESS)
        client.connect(context["path"])
    else:
        client = socket.create_connection((context.get("host", "127.0.0.1"), context["port"]), timeout=wait * SLOWNESS)
    return client


def ticks(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def calm(pid, seconds=0.6):
    """Whether skd spins: its calls can't be seen, but what it gives and takes of the processor can."""
    for _ in range(8):
        before = ticks(pid)
        time.sleep(seconds)
        used = ticks(pid) - before
        # Work that was begun before may have to end first; a loop never does.
        if used <= 3:
            return "calm"
    return f"{used} ticks"


def battery(pid):
    """Everything that one process can do to another by its number."""
    pidfd = LIBC.syscall(PIDFD_OPEN, pid, 0)
    buffer = ctypes.create_string_buffer(64)
    vector = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(buffer), 8), 16)
    mask = ctypes.create_string_buffer(struct.pack("Q", 1), 8)
    zero = ctypes.create_string_buffer(64)
    attr = ctypes.create_string_buffer(struct.pack("IIQiI", 48, 3, 0, 0, 0), 48)
    perf = ctypes.create_string_buffer(struct.pack("IIQ", 1, 120, 9), 120)
    return [
        ("seize", call(PTRACE, 0x4206, pid, 0, 0)),
        ("attach", call(PTRACE, 16, pid, 0, 0)),
        ("readv", call(READV, pid, vector, 1, vector, 1, 0)),
        ("writev", call(WRITEV, pid, vector, 1, vector, 1, 0)),
        ("kcmp", call(KCMP, pid, pid, 0, 0, 0)),
        ("getfd", call(PIDFD_GETFD, pidfd, 0, 0)),
        ("pidfd signal", call(PIDFD_SEND_SIGNAL, pidfd, 15, 0, 0)),
        ("madvise", call(PROCESS_MADVISE, pidfd, vector, 1, 21, 0)),
        ("namespaces of a pidfd", call(SETNS, pidfd, 0x00020000)),
        ("prlimit", tried(lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3)))),
        ("affinity", tried(os.sched_setaffinity, pid, {0})),
        ("scheduler", tried(os.sched_setscheduler, pid, os.SCHED_IDLE, os.sched_param(0))),
        ("attributes", call(SETATTR, pid, attr, 0)),
        ("nice", tried(os.setpriority, os.PRIO_PROCESS, pid, 19)),
        ("io priority", call(IOPRIO, 1, pid, 0x6000)),
        ("group", tried(os.setpgid, pid, os.getpid())),
        ("migrate", call(MIGRATE, pid, 1, mask, mask)),
        ("robust list", call(ROBUST, pid, zero, zero)),
        ("perf", call(PERF, perf, pid, -1, -1, 0)),
    ]


def proc_files(pid):
    def reads(what):
        with open(f"/proc/{pid}/{what}", "rb", buffering=0) as file:
            file.read(16)

    def writes(what):
        with open(f"/proc/{pid}/{what}", "wb", buffering=0) as file:
            file.write(b"0")
    readable = ("mem", "environ", "maps", "smaps", "pagemap", "auxv", "io", "stack", "syscall", "personality", "timers",
                "numa_maps", "fd/0", "fdinfo/0", "exe", "root/etc/shadow", "cwd/.", "map_files/.", "ns/net")
    writable = ("mem", "oom_score_adj", "oom_adj", "coredump_filter", "comm", "clear_refs", "timerslack_ns", "autogroup",
                "uid_map", "gid_map", "setgroups", "sched", "loginuid", "attr/current", f"task/{pid}/comm")
    tries = [(what, tried(reads, what)) for what in readable]
    return tries + [(f"to {what}", tried(writes, what)) for what in writable]


REFUSED = ("EPERM", "EACCES", "ESRCH", "ENOENT", "ENOSYS", "EINVAL", "EBADF", "ENODEV", "EIO", "EOPNOTSUPP", "EISDIR")


def main(attacks, context):
    try:
        met = attacks[context["attack"]](context)
    except Exception as error:  # What an attack meets may well be an error; the row says which.
        met = f"{type(error).__name__}: {error}"
    try:
        os.write(1, str(met).encode())
    except OSError:
        pass
    os._exit(0)
