# Attacks of a handler: a program whose client may choose what it does.

def echo(context):
    return "echo"


def variables(context):
    return " ".join(f"{key}={value}" for key, value in os.environ.items() if key.startswith(("PEER", "UNIX", "REMOTE", "TCP")))


def own_ids(context):
    return f"{os.getuid()} {os.getgid()} {sorted(os.getgroups())}"


def by_number(context):
    return all_met(battery(os.getppid()) + battery(context["relay"]), *REFUSED)


def by_proc(context):
    return all_met(proc_files(os.getppid()) + proc_files(context["relay"]), *REFUSED)


def signals(context):
    tries = []
    for pid in (os.getppid(), context["relay"]):
        for number in (1, 2, 9, 10, 12, 15, 17, 19, 34):
            tries.append((f"kill {number}", tried(os.kill, pid, number)))
            info = ctypes.create_string_buffer(struct.pack("iiiiii", number, 0, -1, 0, 1, 0), 128)
            tries.append((f"queue {number}", call(SIGQUEUE, pid, number, info)))
    tries.append(("group 0", tried(os.killpg, os.getpgid(os.getppid()), 15)))
    return all_met(tries, "EPERM", "EINVAL", "ESRCH")


def signals_of_a_namesake(context):
    """Where skd has the same user: the signals arrive, and are not obeyed."""
    for number in (1, 2, 3, 10, 12, 15, 17, 18):
        os.kill(os.getppid(), number)
        info = ctypes.create_string_buffer(struct.pack("iiiiii", number, 0, -1, 0, 1, 0), 128)
        call(SIGQUEUE, os.getppid(), number, info)
        call(PIDFD_SEND_SIGNAL, LIBC.syscall(PIDFD_OPEN, os.getppid(), 0), number, 0, 0)
    return "sent"


def owner_signal(context):
    """The kernel sends TERM to skd when the client sends something, or the log is read."""
    for fd in (0, 2):
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getppid())
        fcntl.fcntl(fd, 10, signal.SIGTERM)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    os.write(2, b"a line\n")
    ours = socket.socket(fileno=os.dup(0))
    ours.shutdown(socket.SHUT_RD)
    time.sleep(0.1)
    return "sent"


def everything(context):
    """kill(-1): every process that the user may signal."""
    os.write(1, b"sent")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(-1, signal.SIGTERM)
    os.kill(-1, signal.SIGKILL)
    return ""


def terminate_all(context):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(-1, signal.SIGTERM)
    return "sent"


def limits(context):
    tries = [(str(what), tried(resource.setrlimit, what, (1 << 20, 1 << 20))) for what in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)]
    tries.append(("of skd", tried(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (3, 3)))))
    return all_met(tries, "EPERM", "EINVAL")


def upgrade_moments(context):
    """Traces skd, and opens its memory, for a second, while it is upgraded."""
    skd, end, found = os.getppid(), time.monotonic() + 1.2, []
    while time.monotonic() < end:
        for request in (0x4206, 16):
            if LIBC.syscall(PTRACE, request, skd, 0, 0) >= 0:
                found.append(str(request))
        for what in ("mem", "environ", "fd/0"):
            if tried(lambda: os.close(os.open(f"/proc/{skd}/{what}", os.O_RDONLY))) == "done":
                found.append(what)
    return " ".join(found) or "refused"


def descriptors(context):
    return " ".join(sorted(fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}") or int(fd) < 3))


def terminal(context):
    tries = [("/dev/tty", tried(os.open, "/dev/tty", os.O_RDWR))]
    for fd in (0, 1, 2):
        for request, argument in ((0x5412, b"i"), (0x541C, b"\2"), (0x540E, 0), (0x5410, struct.pack("i", os.getpid()))):
            tries.append((f"{request:x} on {fd}", tried(fcntl.ioctl, fd, request, argument)))
    try:
        tries.append(("reading 2", tried(os.read, os.open("/proc/self/fd/2", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY), 1)))
    except OSError as error:
        tries.append(("reopening 2", name(error.errno)))
    tries.append(("reading 2", tried(os.read, 2, 1)))
    return all_met(tries, "ENXIO", "ENOTTY", "EPERM", "EACCES", "EBADF", "EIO", "EINVAL", "EOPNOTSUPP")


def log_file(context):
    """What could be done to a file by its descriptor."""
    tries = [("truncate", tried(os.ftruncate, 2, 0)), ("write at", tried(os.pwrite, 2, b"x", 0)),
             ("seek", tried(os.lseek, 2, 0, 0)), ("read", tried(os.read, 2, 1)),
             ("allocate", tried(os.posix_fallocate, 2, 0, 1)), ("mode", tried(os.fchmod, 2, 0o777)),
             ("owner", tried(os.fchown, 2, os.getuid(), -1)), ("times", tried(os.utime, 2, (1, 1))),
             ("lease", tried(fcntl.fcntl, 2, fcntl.F_SETLEASE, fcntl.F_WRLCK)),
             ("the file", tried(os.open, context["log"], os.O_WRONLY | os.O_APPEND))]
    for way in (os.O_RDONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        tries.append((f"reopen {way}", tried(os.open, "/proc/self/fd/2", way | os.O_NONBLOCK)))
    return all_met(tries, "EINVAL", "ESPIPE", "EBADF", "EPERM", "EACCES", "ENODEV")


def pipe_games(context):
    """The smallest pipe, unblocking, in packets; spliced pages, copies into itself; bytes without a line, for ever."""
    for function in (lambda: fcntl.fcntl(2, 1031, 1), lambda: fcntl.fcntl(2, 1031, 1 << 30),
                     lambda: fcntl.fcntl(2, fcntl.F_SETFL, os.O_NONBLOCK | os.O_DIRECT)):
        tried(function)
    page = ctypes.create_string_buffer(b"z" * 4096, 4096)
    vector = ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(page), 4096), 16)
    for _ in range(64):
        call(VMSPLICE, 2, vector, 1, 8 | 2)
        call(TEE, 2, 2, 4096, 2)
        tried(os.write, 2, b"y" * 4000)
        tried(os.write, 2, b"\n" * 600)
        tried(os.write, 2, b"")
    ctypes.memset(page, ord("!"), 4096)
    return "sent"


def forged_lines(context):
    """Lines that look like skd's, with other times, returns and escapes."""
    os.write(2, b"2000-01-01T00:00:00.000Z Closed connection from [192.0.2.1]:1\rskd: forged\x1b[2J\0\x9b1A\nhalf a line")
    return "sent"


def keys(context):
    tries = [("session of the parent", call(KEYCTL, 18)), ("a key of the caller's", call(KEYCTL, 10, -3, b"user\0", b"attacked\0", 0))]
    return all_met(tries, "EPERM", "EACCES", "ENOKEY", "EOPNOTSUPP")


def children_of_skd(context):
    """Children that are skd's (CLONE_PARENT): zombies that nothing reaps, unless skd does."""
    for _ in range(50):
        if LIBC.syscall(CLONE, 0x8000 | 17, 0, 0, 0, 0) == 0:
            os._exit(0)
    return "made"


def orphans(context):
    """Processes in a session of their own that keep the connection when the handler has ended."""
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                socket.socket(fileno=os.dup(0)).settimeout(30)
                time.sleep(1.5)
            os._exit(0)
    return "left"


def newborns(context):
    """Stops and kills its siblings, newborn ones among them, while others connect."""
    skd, end = os.getppid(), time.monotonic() + 0.8
    while time.monotonic() < end:
        try:
            pids = open(f"/proc/{skd}/task/{skd}/children").read().split()
            for thread in os.listdir(f"/proc/{skd}/task"):
                pids += open(f"/proc/{skd}/task/{thread}/children").read().split()
        except OSError:
            continue
        for pid in map(int, pids):
            if pid != os.getpid():
                tried(os.kill, pid, signal.SIGSTOP)
                tried(os.kill, pid, signal.SIGKILL)
    return "sent"


def stopped_group(context):
    """Stops itself and its group, with the connection open: another client isn't held up."""
    os.write(1, b"stopped")
    socket.socket(fileno=os.dup(0)).shutdown(socket.SHUT_RDWR)
    os.kill(0, signal.SIGSTOP)
    return ""


def lingering(context):
    """A last close that would wait for an hour, by skd, since the handler has ended by then."""
    ours = socket.socket(fileno=os.dup(0))
    ours.setblocking(False)
    try:
        while True:
            ours.send(b"x" * 65536)
    except BlockingIOError:
        pass
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    os._exit(0)


def another_listener(context):
    """Makes a listening socket of its connection, which skd has kept."""
    tried(lambda: LIBC.connect(0, struct.pack("H14x", 0), 16))
    met = "listens" if LIBC.listen(0, 16) == 0 else "refused"
    open(context["note"], "w").write(f"{met} {socket.socket(fileno=os.dup(0)).getsockname()[1]}")
    os._exit(0)


def odd_options(context):
    """Options of the connection that skd's lingering close meets."""
    ours = socket.socket(fileno=os.dup(0))
    for level, option, value in ((1, 18, 1 << 30), (1, 36, 1), (1, 44, 1), (6, 25, 1), (6, 4, 1), (6, 10, 1), (1, 42, 7), (6, 18, 1)):
        tried(ours.setsockopt, level, option, value)
    drop = struct.pack("HBBI", 6, 0, 0, 0)
    program = ctypes.create_string_buffer(drop)
    tried(ours.setsockopt, 1, 26, struct.pack("HxxxxxxQ", 1, ctypes.addressof(program)))
    return "set"


def regain(context):
    tries = [("uid", tried(os.setuid, 0)), ("gid", tried(os.setgid, 0)), ("groups", tried(os.setgroups, [0])),
             ("saved", tried(os.setresuid, -1, 0, -1)), ("chroot", tried(os.chroot, "/")),
             ("capabilities", call(126 if X86 else 91, struct.pack("Ii", 0x20080522, 0), struct.pack("IIIIII", *[0xFFFFFFFF] * 6))),
             ("ambient", "done" if LIBC.prctl(47, 2, 7, 0, 0) >= 0 else "EPERM"),
             ("open files", tried(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20)))),
             ("nice", tried(lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))),
             ("shadow", tried(os.open, "/etc/shadow", os.O_RDONLY))]
    return all_met(tries, "EPERM", "EACCES")


def set_user_id(context):
    """A set-user-id program of root's, with --no-new-privs."""
    return subprocess.run([context["suid"], "-u"], capture_output=True, text=True).stdout.strip()


def namespace(context):
    """Root of a user namespace: what it may do to skd."""
    if LIBC.unshare(0x10000000) != 0:
        return "refused"
    return all_met(battery(os.getppid()) + [("kill", tried(os.kill, os.getppid(), 15))], *REFUSED)


def things_left(context):
    """Queues, segments and timers that remain after the handler: nothing of skd's is among them."""
    LIBC.shmget(0, 4096, 0o1600)
    call(MQ_OPEN, f"attack{os.getpid()}\0".encode(), 0o102, 0o600, 0)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.pause()


def passes_descriptors(context):
    """Sends skd's client, on a unix socket, its own connection and a full lingering socket."""
    listener = socket.create_server(("127.0.0.1", 0))
    far = socket.create_connection(listener.getsockname())
    near, _ = listener.accept()
    ours = socket.socket(fileno=os.dup(0))
    ours.setsockopt(socket.SOL_SOCKET, 83, 1)  # SO_PASSRIGHTS
    ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, near.fileno()]))])
    os._exit(0)


def service_manager(context):
    """The names and descriptors of skd's surroundings in the environment."""
    names = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID", "SKD_UPGRADE", "MAINPID")
    return " ".join(key for key in names if key in os.environ) or "nothing"


def shuts_listener_down(context):
    os.write(2, b"shut\n")
    socket.socket(fileno=os.dup(0)).shutdown(socket.SHUT_RDWR)
    os._exit(0)


def request():
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            os._exit(0)
        line += byte
    return json.loads(line)


ATTACKS = {key: value for key, value in list(globals().items()) if callable(value)}
