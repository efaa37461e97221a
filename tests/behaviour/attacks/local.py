# Attacks of a local user, uid 1.

def signals(context):
    """Signals of all kinds to skd and its relay."""
    tries = []
    for pid in filter(None, (context["skd"], context["relay"])):
        for number in (0, 1, 2, 3, 9, 10, 12, 15, 17, 19, 20, 34, 64):
            tries.append((f"kill {number}", tried(os.kill, pid, number)))
            for code in (0, -1, -2, -6, 0x80, 1):
                info = ctypes.create_string_buffer(struct.pack("iiiiii", number, 0, code, 0, 1, 0), 128)
                tries.append((f"queue {number} {code}", call(SIGQUEUE, pid, number, info)))
                tries.append((f"queue to thread {number} {code}", call(TGSIGQUEUE, pid, pid, number, info)))
    return all_met(tries, "EPERM", "EINVAL")


def owner_signal(context):
    """The kernel sends TERM, on input, to the owner of a descriptor."""
    ours, theirs = socket.socketpair()
    done = []
    for owner in (context["skd"], -context["skd"]):
        done.append(tried(fcntl.fcntl, ours, fcntl.F_SETOWN, owner))
        fcntl.fcntl(ours, 10, signal.SIGTERM)
        fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        theirs.send(b"now")
    listener = socket.create_server(("127.0.0.1", 0))
    far = socket.create_connection(listener.getsockname())
    near, _ = listener.accept()
    fcntl.ioctl(near, 0x8902, struct.pack("i", context["skd"]))  # SIOCSPGRP: URG at urgent data
    far.send(b"!", socket.MSG_OOB)
    time.sleep(0.1)
    return served(context)


def by_number(context):
    return all_met(battery(context["skd"]) + battery(context["relay"]), *REFUSED)


def by_proc(context):
    return all_met(proc_files(context["skd"]) + proc_files(context["relay"]), *REFUSED)


def as_root_of_namespace(context):
    """Root of a user namespace of its own, in which all capabilities are held."""
    child = os.fork()
    if child == 0:
        if LIBC.unshare(0x10000000) != 0:
            os.write(1, b"refused")
            os._exit(0)
        met = all_met(battery(context["skd"]) + [("kill", tried(os.kill, context["skd"], 15))] + proc_files(context["skd"]), *REFUSED)
        os.write(1, met.encode())
        os._exit(0)
    os.waitpid(child, 0)
    return ""


def namespace_of_processes(context):
    """A client in a pid namespace of its own, where it is process 1 and root."""
    line = ("import socket,sys,os\nc=socket.socket(socket.AF_UNIX); c.connect(sys.argv[1]); c.settimeout(%d)\n" % (20 * SLOWNESS) +
            "c.sendall(b'{\"attack\": \"variables\"}\\n'); print(os.getpid(), os.getuid(), c.recv(4096).decode())")
    done = subprocess.run(["unshare", "-Urpf", "python3", "-c", line, context["unix"]], capture_output=True, text=True)
    if done.returncode:
        return "no namespace"
    words = done.stdout.split()
    return "as it is" if "PEERUID=1" in words and not {"PEERUID=0", "PEERPID=1"} & set(words) else done.stdout + done.stderr


def forged_credentials(context):
    client = socket.socket(socket.AF_UNIX)
    client.connect(context["unix"])
    forged = struct.pack("iII", 1, 0, 0)
    met = tried(client.sendmsg, [b"x"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, forged)])
    return met


def connection_of_another(context):
    """A descriptor that root connected stays root's, and one that uid 1 connected stays its own: SO_PEERCRED is old."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20 * SLOWNESS)
    client.connect(context["unix"])
    if os.fork() == 0:
        client.sendall(b'{"attack": "variables"}\n')
        os._exit(0)
    words = client.recv(4096).decode().split()
    return "as it is" if "PEERUID=1" in words else str(words)


def pidfile_lock(context):
    file = os.open(context["pidfile"], os.O_RDONLY)
    tried(fcntl.flock, file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    tries = [("the lock", tried(os.open, context["pidfile"] + ".lock", os.O_RDONLY)),
             ("write", tried(os.open, context["pidfile"], os.O_RDWR)),
             ("record lock", tried(lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB))),
             ("lease", tried(fcntl.fcntl, file, fcntl.F_SETLEASE, fcntl.F_RDLCK))]
    return all_met(tries, "EACCES", "EBADF")


def names(context):
    """Remove, rename, replace or link what skd has made in a directory that all may write, with the sticky bit."""
    tries = []
    for path in (context["unix"], context["sticky_log"], context["sticky_pid"], context["sticky_pid"] + ".lock"):
        own = f"{path}.{os.getpid()}"
        open(own, "w").close()
        tries += [("unlink", tried(os.unlink, path)), ("rename", tried(os.rename, path, own + "x")),
                  ("replace", tried(os.rename, own, path)), ("link", tried(os.link, path, own + "y")),
                  ("chmod", tried(os.chmod, path, 0o777)), ("truncate", tried(os.truncate, path, 0)),
                  ("times", tried(os.utime, path, (1, 1)))]
        os.unlink(own)
    return all_met(tries, "EPERM", "EACCES", "EINVAL", "ENXIO")


def port(context):
    """The port once more, in all the ways in which a port can be shared."""
    tries = []
    for kind, number in ((socket.SOCK_STREAM, context["port"]), (socket.SOCK_DGRAM, context["udp"])):
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            for host in ("127.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1"):
                other = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
                if ":" in host:
                    other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                other.setsockopt(socket.SOL_SOCKET, option, 1)

                def listen():
                    other.bind((host, number))
                    if kind == socket.SOCK_STREAM:
                        other.listen()
                tries.append((f"{kind} {option} {host}", tried(listen)))
    return all_met(tries, "EADDRINUSE")


def abstract_name(context):
    other = socket.socket(socket.AF_UNIX)
    return tried(other.bind, "\0" + context["abstract"])


def many_descriptors(context, kind=socket.SOCK_STREAM, path="unix"):
    """Descriptors of every kind, passed along, 50 times."""
    listener = socket.create_server(("127.0.0.1", 0))
    lingering = socket.create_connection(listener.getsockname())
    lingering.setblocking(False)
    far, _ = listener.accept()
    try:
        while True:
            lingering.send(b"x" * 65536)
    except BlockingIOError:
        pass
    lingering.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    one, two = socket.socketpair()
    one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [two.fileno()]))])
    kinds = [lingering.fileno(), one.fileno(), *os.pipe(), select.epoll().fileno(), os.memfd_create("x"),
             LIBC.syscall(PIDFD_OPEN, os.getpid(), 0), LIBC.inotify_init(), LIBC.timerfd_create(1, 0), LIBC.eventfd(0, 0),
             os.open("/", os.O_PATH), os.open("/proc", os.O_RDONLY), os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY),
             listener.fileno()]
    kinds = [fd for fd in kinds if fd >= 0]
    refused = 0
    clients = []
    for _ in range(50):
        client = socket.socket(socket.AF_UNIX, kind)
        client.settimeout(5 * SLOWNESS)
        try:
            client.connect(context[path])
            client.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", kinds + [client.fileno()]))])
        except OSError as error:
            refused += error.errno == errno.EPERM
        clients.append(client)
    lingering.detach()
    # It waits.
    threading.Thread(target=os.close, args=(kinds[0],), daemon=True).start()
    met = served(context)
    # Not before: this process's own close would wait.
    far.close()
    return met


def descriptors_on_datagrams(context):
    return many_descriptors(context, socket.SOCK_DGRAM, "dgram")


def descriptors_on_packets(context):
    return many_descriptors(context, socket.SOCK_SEQPACKET, "seqpacket")


def odd_names(context):
    """Clients whose own socket has a name with a line of a log in it."""
    where = f"/tmp/a{os.getpid()}\nskd: Upgraded from skd 0\x1b[2J\r"
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20 * SLOWNESS)
    client.bind(where)
    os.chmod(where, 0o777)
    try:
        client.connect(context["unix"])
        client.sendall(b'{"attack": "echo"}\n')
        client.recv(10)
    finally:
        os.unlink(where)
    return "served"


def flood(context):
    """More connections than the backlog takes, that send nothing, none of which is closed."""
    clients = []
    for _ in range(600):
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        try:
            client.connect(context["unix"])
        except OSError:
            pass
        clients.append(client)
    met = served(dict(context, path=None))
    for client in clients:
        client.close()
    return met


def keys(context):
    """Keys that skd could find: in the keyrings of its user, by a request, by number."""
    tries = [("session of the parent", call(KEYCTL, 18))]
    for line in open("/proc/keys"):
        words = line.split()
        if words and "skd" in line:
            tries.append((words[-1], call(KEYCTL, 11, int(words[0], 16), 0, 0)))
    return all_met(tries, "EPERM", "EACCES", "ENOKEY", "EKEYEXPIRED", "EOPNOTSUPP")


def cgroup(context):
    where = "/sys/fs/cgroup"
    path = next((line.split(":")[2].strip() for line in open(f"/proc/{context['skd']}/cgroup")), "/")

    def move(file):
        with open(file, "w") as out:
            out.write(str(context["skd"]))
    tries = [(file, tried(move, f"{where}{path}/{file}")) for file in ("cgroup.procs", "cgroup.freeze", "cgroup.kill", "pids.max")]
    return all_met(tries, *REFUSED, "EROFS")


def watches(context):
    """Watches that would make an open wait, or tell of each line."""
    fan = LIBC.syscall(FANOTIFY, 4, 0)
    tries = [("permission events", "done" if fan >= 0 else "EPERM"),
             ("lease on the log", tried(lambda: fcntl.fcntl(os.open(context["sticky_log"], os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_WRLCK)))]
    return all_met(tries, "EPERM", "EACCES", "EAGAIN")


def out_of_band(context):
    """A byte out of band and no other, on a unix socket: readable, but there is nothing to read."""
    clients = []
    for _ in range(4):
        client = socket.socket(socket.AF_UNIX)
        client.connect(context["unix"])
        try:
            client.send(b"!", socket.MSG_OOB)
        except OSError:
            return "calm"
        clients.append(client)
    return calm(context["skd"])


def leases(context):
    """A list of rules of its own, with a lease for writing: an open would wait for 45 seconds."""
    file = os.open(context["list"], os.O_RDWR)
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    met = tried(fcntl.fcntl, file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    os.write(1, met.encode())
    os.close(1)
    # The lease lasts as long as this process.
    select.select([0], [], [], 60)
    os._exit(0)


def control(context, *lines):
    """A client of the control socket that sends these lines."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20 * SLOWNESS)
    client.connect(context["control"])
    for line in lines:
        client.sendall(line + b"\n")
    return client


def answers(client, count):
    """Of each of so many answers its kind, or that of its failure."""
    lines = client.makefile()
    for _ in range(count):
        answer = json.loads(lines.readline() or '{"answer": "end"}')
        yield answer.get("kind", answer["answer"])


def act(request, **fields):
    return json.dumps({"version": 1, "id": 1, "request": request, **fields}).encode()


STATUS = act("status")


def control_acts(context):
    """Each request that changes something, of a user who may ask."""
    acts = [act("reload"), act("upgrade"), act("drain", service="x"), act("enable", service="x"),
            act("disable", service="x", refuse=True), act("kill", pid=context["skd"]), act("kill", source="0.0.0.0/0"),
            act("set-verbosity", level=2), act("deny", source="0.0.0.0/0", seconds=9), act("allow", source="::/0")]
    return all_met(zip(acts, answers(control(context, *acts), len(acts))), "not-permitted")


def control_junk(context):
    """What is no request, and a request after each."""
    junk = [b"", b"\0", b"\xff\xfe", b"{", b"[" * 60_000, b'{"a":' * 10_000, b'"' + b"\\u0000" * 9_000 + b'"', b"1e999", b"NaN",
            b'{"version":1,"id":18446744073709551616,"request":"status"}', b'{"version":1,"id":-1,"request":"status"}',
            b'{"version":1e999,"request":"status"}', b'{"version":1,"id":1,"request":"status","request":"halt"}',
            b'{"version":1,"id":1,"request":"handlers","limit":1e19}', b'{"version":1,"id":1,"request":"explain","client":"\\u001b[2J"}',
            b'{"version":1,"id":1,"request":"events","source":"' + b"9" * 60_000 + b'"}']
    tries = []
    for line in junk:
        kinds = list(answers(control(context, line, STATUS), 2))
        if kinds != ["bad-request", "status"]:
            tries.append((line[:60], kinds))
    return all_met(tries)


def control_flood(context):
    """300 clients: of half requests, of megabytes of requests, and of watchers, that never read."""
    clients = []
    for number in range(300):
        kind = number % 3
        client = control(context)
        client.setblocking(False)
        clients.append(client)
        try:
            client.send((b'{"version":1', STATUS + b"\n", act("events") + b"\n")[kind])
            while kind == 1 and client.send((STATUS + b"\n") * 1_000):
                pass
        except OSError:  # Those that are too many are closed.
            pass
    return served(context)


def control_names(context):
    """Watchers of thousands of events each, and what they watch."""
    names = [f"{number:x}" for number in range(7_000)]
    clients = [control(context, act("events", events=names)) for _ in range(40)]
    met = {served(context) for _ in range(50)}
    return met.pop() if len(met) == 1 else repr(met)


def control_descriptors(context):
    return many_descriptors(context, path="control")


def control_file(context):
    """The file of the socket, in a directory where all write."""
    path = context["control"]
    tries = [(name, tried(*call)) for name, *call in (
        ("unlink", os.unlink, path), ("rename", os.rename, path, path + "2"), ("chmod", os.chmod, path, 0o777),
        ("bind", socket.socket(socket.AF_UNIX).bind, path), ("replace", os.replace, context["sticky_file"], path),
        ("link", os.link, path, path + "3"))]
    return all_met(tries, "EPERM", "EACCES", "EADDRINUSE", "ENOENT")


ATTACKS = {key: value for key, value in list(globals().items()) if callable(value)}
