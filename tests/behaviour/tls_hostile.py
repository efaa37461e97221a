"""Hostile clients of TLS: argv has the port, the pid of skd-tls, the authority's file, and functions. Each says what it has met."""

import os, socket, ssl, struct, subprocess, sys, time

PORT, TLS, CA = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
GONE = (BrokenPipeError, ConnectionResetError)


def connect():
    return socket.create_connection(("127.0.0.1", PORT), 10)


def context(newest=None):
    made = ssl.create_default_context(cafile=CA)
    if newest:
        made.maximum_version = newest
    return made


def hello():
    """A real ClientHello, as a record."""
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context().wrap_bio(into, out, server_hostname="localhost")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


def record(kind, body):
    return bytes([kind, 3, 3]) + struct.pack(">H", len(body)) + body


def records(kind, body, size):
    return b"".join(record(kind, body[at : at + size]) for at in range(0, len(body), size))


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def send(client, *parts):
    try:
        for part in parts:
            client.sendall(part)
    except GONE:
        pass


def end_of(client):
    """Reads up to the end. A client that is left open fails here, by its timeout."""
    try:
        while client.recv(65536):
            pass
    except GONE:
        pass
    client.close()


def secure(newest=None):
    """A session over memory, and its socket: what isn't from the session can be sent between."""
    into, out, raw = ssl.MemoryBIO(), ssl.MemoryBIO(), connect()
    client = context(newest).wrap_bio(into, out, server_hostname="localhost")
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            raw.sendall(out.read())
            into.write(raw.recv(65536))
    raw.sendall(out.read())
    return client, out, raw


def with_name(name):
    """A ClientHello that asks for this name."""
    body = hello()[5:]
    at = 39 + body[38]
    at += 2 + struct.unpack(">H", body[at : at + 2])[0]
    at += 1 + body[at]
    rest, kept = body[at + 2 :], b""
    while rest:
        kind, length = struct.unpack(">HH", rest[:4])
        if kind != 0:
            kept += rest[: 4 + length]
        rest = rest[4 + length :]
    entry = b"\0" + struct.pack(">H", len(name)) + name
    entry = struct.pack(">H", len(entry)) + entry
    kept += struct.pack(">HH", 0, len(entry)) + entry
    body = body[4:at] + struct.pack(">H", len(kept)) + kept
    return record(22, b"\1" + struct.pack(">I", len(body))[1:] + body)


def garbage():
    for sent in (os.urandom(20000), bytes(20000), b"\xff" * 20000, b"SSH-2.0-x\r\n", b"\x16\3\1\xff\xff" + bytes(65535)):
        client = connect()
        send(client, sent)
        end_of(client)
    return "the end"


def prefixes():
    whole, open_ = hello(), []
    for length in range(0, len(whole), 11):
        for way in ("close", "reset", "shut down", "wait"):
            client = connect()
            send(client, whole[:length])
            if way == "close":
                client.close()
            elif way == "reset":
                reset(client)
            else:
                if way == "shut down":
                    client.shutdown(socket.SHUT_WR)
                open_.append(client)
    for client in open_:
        end_of(client)
    return "the end"


def large():
    message = b"\1\xff\xff\xff" + bytes(60000)
    for size in (1, 100, 16384):
        client = connect()
        send(client, records(22, message, size))
        end_of(client)
    return "the end"


def empty():
    for kind in (20, 22, 23):
        client = connect()
        send(client, record(kind, b"") * 1000)
        end_of(client)
        for newest in (None, ssl.TLSVersion.TLSv1_2):
            _, _, raw = secure(newest)
            send(raw, record(kind, b"") * 1000)
            end_of(raw)
    return "the end"


def changes():
    for first in (b"", hello()):
        client = connect()
        send(client, first, record(20, b"\1") * 10000)
        end_of(client)
    _, _, raw = secure()
    send(raw, record(20, b"\1") * 1000)
    end_of(raw)
    return "the end"


def alerts():
    for level, kind in ((1, 100), (2, 0), (2, 40)):
        alert = record(21, bytes([level, kind]))
        for first in (b"", hello()):
            client = connect()
            send(client, first, alert)
            end_of(client)
        for newest in (None, ssl.TLSVersion.TLSv1_2):
            _, _, raw = secure(newest)
            send(raw, alert)
            end_of(raw)
    return "the end"


def names():
    for name in (b"a" * 15000, b"lo\ncal\x1b[31mhost", b"localhost\0.evil", b"\xff\xfe", b"", b"../../etc/passwd", b"*.localhost"):
        client = connect()
        send(client, with_name(name))
        answer = client.recv(65536)
        # An alert, and no ServerHello.
        assert answer[:1] == b"\x15", (name, answer[:20])
        end_of(client)
    return "an alert"


def renegotiation():
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{PORT}", "-tls1_2", "-CAfile", CA]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    time.sleep(0.5)
    client.stdin.write(b"R\n")
    client.stdin.flush()
    said = client.communicate(timeout=10)[0]
    return "refused" if b"no renegotiation" in said else said.decode(errors="replace")


def resident():
    with open(f"/proc/{TLS}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def unread():
    before, clients = resident(), []
    for _ in range(40):
        client, out, raw = secure()
        client.write(b"zeros\n")
        raw.sendall(out.read())
        clients.append(raw)
    time.sleep(0.5)
    more = resident() - before
    for client in clients:
        client.close()
    return "bounded" if more < 16384 else f"{more} KiB more"


def unheard():
    """The other direction: the handler reads nothing."""
    before, clients = resident(), []
    for _ in range(10):
        client, out, raw = secure()
        client.write(b"deaf\n")
        raw.sendall(out.read())
        raw.settimeout(0.2)
        try:
            while True:
                client.write(bytes(16384))
                raw.sendall(out.read())
        except TimeoutError:
            pass
        clients.append(raw)
    more = resident() - before
    for client in clients:
        reset(client)
    return "bounded" if more < 16384 else f"{more} KiB more"


def resets():
    for number in range(60):
        client, out, raw = secure((None, ssl.TLSVersion.TLSv1_2)[number % 2])
        client.write(b"zeros\n" if number % 3 else b"echo\n")
        client.write(bytes(number * 500))
        send(raw, out.read())
        raw.settimeout(0.02)
        try:
            raw.recv(1 + number * 1000)
        except OSError:
            pass
        if number % 4 == 0:
            raw.shutdown(socket.SHUT_WR)
        reset(raw)
    return "served"


def aborts():
    whole = hello()
    for _ in range(10):
        clients = [connect() for _ in range(100)]
        for number, client in enumerate(clients):
            send(client, (b"", whole, whole[:200], b"junk")[number % 4])
        for number, client in enumerate(clients):
            reset(client) if number % 2 else client.close()
    return "served"


def honest():
    raw = context().wrap_socket(connect(), server_hostname="localhost")
    raw.sendall(b"hello\n")
    return raw.recv(5).decode()


print(*(globals()[name]() for name in sys.argv[4:]), sep=", ", end="")
