# Attempts in Python: the first argument is the name of one.
import asyncio, errno, mmap, os, signal, socket, subprocess, sys, time


def met(what, function, *arguments):
    try:
        function(*arguments)
        print(f"{what}: got", flush=True)
    except OSError as error:
        print(f"{what}: {errno.errorcode.get(error.errno, 'unknown')}", flush=True)


def connections():
    host = os.environ["HOST_TCP"]
    for address in ("127.0.0.1", "localhost", "0.0.0.0"):
        try:
            socket.create_connection((address, int(host)), timeout=5).close()
            print(f"{address}: got", flush=True)
        except OSError as error:
            # A name that can't be resolved, or nothing to try.
            print(f"{address}: {errno.errorcode.get(error.errno, 'unresolved')}", flush=True)

    async def by_loop():
        await asyncio.open_connection("127.0.0.1", int(host))
    met("asyncio", lambda: asyncio.run(by_loop()))


def daemon():
    """As a program becomes a daemon, which closes everything first."""
    ready, begun = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN)
            with open("/proc/self/comm", "w") as comm:
                comm.write(os.environ["MARK"])
            os.write(begun, b".")
            os.closerange(0, 100)
            time.sleep(100)
        os._exit(0)
    os.read(ready, 1)
    print("daemon: started", flush=True)


def host_file():
    for path in (os.environ["HOST_FILE"], "/proc/1/root" + os.environ["HOST_FILE"], "/etc/shadow"):
        met(path, open, path)


def scan_processes():
    """All numbers that a process of the host or of another connection may have."""
    found = 0
    for pid in [int(os.environ["HOST_PID"]), int(os.environ["NEIGHBOUR_HOST_PID"]), int(os.environ["SKD_PID"])] + list(range(1, 40000)):
        if pid == os.getpid():
            continue
        try:
            os.kill(pid, 0)
            found += 1
        except ProcessLookupError:
            pass
        except PermissionError:
            found += 1
    print("processes by their numbers:", "got" if found else "nothing", flush=True)


def scan_ports():
    """The ports of the host, and with them those of other services."""
    found = 0
    for port in (int(os.environ["HOST_TCP"]), int(os.environ["SKD_PORT"]), 22, 25, 53, 80, 111, 631):
        with socket.socket() as client:
            client.settimeout(5)
            found += client.connect_ex(("127.0.0.1", port)) == 0
    print("open ports:", "got" if found else "nothing", flush=True)


globals()[sys.argv[1]]()
print("end: end", flush=True)
