# Attacks of a client.

def resets(context):
    """Connections that are reset at each stage: at once, after a byte, while the handler runs, after its answer."""
    for stage in range(4):
        for _ in range(15):
            client = stream(context)
            if stage >= 1:
                client.send(b"{")
            if stage >= 2:
                client.send(b'"attack": "echo"}\n')
            if stage >= 3:
                client.recv(1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
    return served(context)


def half_closed(context):
    """The end of the input before any of it, and long before the answer."""
    client = stream(context)
    client.shutdown(socket.SHUT_WR)
    client.recv(1)
    return served(context)


def urgent(context):
    """Urgent data before, within and after the request, and nothing else."""
    clients = []
    for rounds in range(10):
        client = stream(context)
        tried(client.send, b"!", socket.MSG_OOB)
        if rounds % 2:
            tried(client.send, b"!!!", socket.MSG_OOB)
        clients.append(client)
    return calm(context["skd"])


def silent(context):
    """More silent clients than there are slots: those that send something are served."""
    clients = [stream(context) for _ in range(40)]
    met = served(context)
    del clients
    return met


def one_source(context):
    """All that one source may have, from 127.0.0.2: another one is served."""
    clients = []
    for _ in range(40):
        client = socket.socket()
        client.settimeout(5 * SLOWNESS)
        client.bind(("127.0.0.2", 0))
        client.connect(("127.0.0.1", context["port"]))
        tried(client.send, b"{")
        clients.append(client)
    return served(context)


def unread(context):
    """Answers that are never read, and never closed."""
    clients = []
    for _ in range(60):
        client = stream(context)
        client.sendall(b'{"attack": "echo"}\n' + b"x" * 3000)
        clients.append(client)
    return served(context)


def never_closes(context):
    """Clients whose input isn't read, and that never close: 1,500 lingering connections."""
    clients = []
    for _ in range(1500):
        client = stream(context)
        client.sendall(b"unread" * 100)
        clients.append(client)
    client = stream(context)
    met = "served" if client.recv(100) == b"answer\n" else "not served"
    open_files = len(os.listdir(f"/proc/{context['skd']}/fd"))
    return met if open_files < 9000 else str(open_files)


def header(context, text, wait=6):
    """What a PROXY header brings: the answer of the handler, or that there was none."""
    client = stream(context, wait)
    tried(client.sendall, text)
    tried(client.sendall, b'{"attack": "variables"}\n')
    tried(client.shutdown, socket.SHUT_WR)
    answer = b""
    try:
        while part := client.recv(4096):
            answer += part
    except OSError:
        pass
    return answer.decode() or "closed"


def v2(command, family, body, length=None):
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x20 | command, family]) + struct.pack("!H", len(body) if length is None else length) + body


def faulty_headers(context):
    four = socket.inet_aton("192.0.2.1") * 2 + struct.pack("!HH", 1, 2)
    texts = [b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n\n\n",
             b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n", b"PROXY TCP4 0300.0.2.1 192.0.2.2 1 2\r\n",
             b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n", b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", b"PROXY TCP4 ::1 ::1 1 2\r\n", b"PROXY UNIX x y 1 2\r\n",
             b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", b"PROXY \r\n", b"PROXY" + b" " * 200,
             b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n", b"PROXY TCP4 192.0.2.1\0 192.0.2.2 1 2\r\n", b"GET / HTTP/1.0\r\n\r\n", b"\r\n\r\n\0\r\nQUIT\r",
             v2(1, 0x11, four[:-1]), v2(2, 0x11, four), v2(1, 0x21, four), b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c" + four, v2(1, 0x11, b"")]
    odd = [f"{text[:40]!r}: {met}" for text in texts if (met := header(context, text)) != "closed"]
    return ", ".join(odd) or "closed"


def endless_header(context):
    """A header of 65,535 bytes that never comes, and one that comes byte by byte."""
    clients = []
    for begin in (v2(1, 0x11, b"x" * 100, 65535), b"PROXY TCP4 192.0.2.1", b"\r\n\r\n\0\r\nQUIT\n!\x11"):
        for _ in range(20):
            client = stream(context)
            tried(client.sendall, begin)
            clients.append(client)
    slow = stream(context)
    for byte in b"PROXY TCP4":
        tried(slow.send, bytes([byte]))
    met = header(context, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", 20)
    return calm(context["skd"]) + (" served" if "REMOTE_ADDR=192.0.2.1" in met else met)


def header_of_a_denied(context):
    """Ways to write a client that the rules deny: IPv4 within IPv6, and of a translator."""
    texts = [b"PROXY TCP4 198.51.100.1 192.0.2.2 1 2\r\n", b"PROXY TCP6 ::ffff:198.51.100.1 ::1 1 2\r\n", b"PROXY TCP6 ::ffff:c633:6401 ::1 1 2\r\n",
             b"PROXY TCP6 64:ff9b::c633:6401 ::1 1 2\r\n",
             v2(1, 0x21, socket.inet_pton(socket.AF_INET6, "::ffff:198.51.100.1") * 2 + struct.pack("!HH", 1, 2)),
             v2(1, 0x11, socket.inet_aton("198.51.100.1") * 2 + struct.pack("!HH", 1, 2))]
    odd = [f"{text[:40]!r}: {met}" for text in texts if (met := header(context, text)) != "closed"]
    return ", ".join(odd) or "closed"


def second_header(context):
    """A second header behind the first one: it is the client's, and stays unread by skd."""
    met = header(context, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nPROXY TCP4 192.0.2.9 192.0.2.2 1 2\r\n")
    return "not believed" if "192.0.2.9" not in met else met


def header_without_trust(context):
    """A header of a peer that isn't the proxy: from another address of the machine."""
    client = socket.socket()
    client.settimeout(10 * SLOWNESS)
    client.bind(("127.0.0.2", 0))
    client.connect(("127.0.0.1", context["port"]))
    tried(client.sendall, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + b'{"attack": "variables"}\n')
    try:
        return client.recv(100).decode() or "closed"
    except OSError:
        return "closed"


def odd_header_bytes(context):
    """Names and bytes of a version 2 header that could come into the log: a unix path with a line, extensions."""
    path = (b"/x\nskd: forged\x1b[2J" + b"\0" * 108)[:108]
    header(context, v2(1, 0x31, path + path))
    header(context, v2(1, 0x11, socket.inet_aton("192.0.2.1") * 2 + struct.pack("!HH", 1, 2) + b"\x02\0\x20" + b"host\nskd: forged\x1b[2J".ljust(32)))
    return "sent"


def datagrams(context):
    """No bytes, as many as there can be, and ten thousand."""
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(10 * SLOWNESS)
    client.connect(("127.0.0.1", context["udp"]))
    for payload in (b"", b"x" * 65507, b"", b"y"):
        tried(client.send, payload)
    for _ in range(10_000):
        tried(client.send, b"")
    return asked(context)


def asked(context):
    """An honest client of the UDP service."""
    for _ in range(40):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(0.5 * SLOWNESS)
        client.connect(("127.0.0.1", context["udp"]))
        try:
            client.send(b"honest")
            if client.recv(100) == b"honest":
                return "served"
        except OSError:
            pass
    return "not served"


def raw(source, target, port_from, port_to, payload):
    head = struct.pack("!HHHH", port_from, port_to, 8 + len(payload), 0) + payload
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    address = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(head), 0, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(target))
    out.sendto(address + head, (target, 0))


def forged_sources(context):
    """A datagram whose source is the service itself: it would answer itself for ever. (A network can forge it.)"""
    for source in ("127.0.0.1", "127.0.0.9"):
        for _ in range(20):
            raw(source, "127.0.0.1", context["udp"], context["udp"], b"echo")
    time.sleep(0.3)
    return calm(context["skd"]) + " " + asked(context)


def low_ports(context):
    """Datagrams of ports that clients don't have: 0, echo and chargen."""
    for source in (0, 7, 19, 53):
        raw("127.0.0.1", "127.0.0.1", source, context["udp"], b"never")
    return asked(context)


def many_senders(context):
    """Three hundred senders, none of which waits for an answer."""
    for _ in range(300):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect(("127.0.0.1", context["udp"]))
        tried(client.send, b"x")
    return asked(context)


def empty_packets(context):
    """Packets without a byte on a seqpacket socket, which read like the end."""
    for _ in range(20):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.connect(context["seqpacket"])
        tried(client.send, b"")
    return served(context)


def forms_of_an_address(context):
    """IPv4 within IPv6 on a socket for both families, where IPv4 clients are denied."""
    client = socket.socket(socket.AF_INET6)
    client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    client.settimeout(5 * SLOWNESS)
    client.bind(("::ffff:127.0.0.3", 0))
    client.connect(("::ffff:127.0.0.1", context["port"]))
    tried(client.sendall, b'{"attack": "variables"}\n')
    try:
        return client.recv(100).decode() or "closed"
    except OSError:
        return "closed"


def ends_early(context):
    """Clients that are gone in the moment of the hand-off to a prestarted handler."""
    for rounds in range(60):
        client = stream(context)
        if rounds % 3 == 0:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    return served(context)


def state_of_others(context):
    """What the client before has changed in its handler: memory, signals, limits, directory, umask, variables."""
    answers = set()
    for _ in range(6):
        client = stream(context)
        client.sendall(b"x\n")
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while part := client.recv(4096):
            answer += part
        answers.add(answer)
    return answers.pop().decode().strip() if len(answers) == 1 else repr(answers)


def as_the_peer(context):
    """The ids of a handler with --as-peer, for uid 1."""
    client = stream(context)
    client.sendall(b'{"attack": "own_ids"}\n')
    return client.recv(100).decode()


def as_root(context):
    try:
        return as_the_peer(context) or "closed"
    except OSError:
        return "closed"


def as_unmapped(context):
    """A client in a user namespace, whose user and groups are mapped to others there."""
    line = ("import socket,sys\nc=socket.socket(socket.AF_UNIX); c.connect(sys.argv[1]); c.settimeout(%d)\n" % (20 * SLOWNESS) +
            "c.sendall(b'{\"attack\": \"own_ids\"}\\n'); print(c.recv(100).decode())")
    done = subprocess.run(["unshare", "-U", "-r", "python3", "-c", line, context["path"]], capture_output=True, text=True)
    return done.stdout.strip() or "no namespace"


def page(context, request):
    """What the status page answers to a request, to the end, which this client has to wait for."""
    client = socket.create_connection(("127.0.0.1", context["page"]), timeout=60 * SLOWNESS)
    answer = b""
    try:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        while part := client.recv(65536):
            answer += part
    except ConnectionError:
        pass
    return answer


def statuses(answer):
    """The statuses of responses, whose bodies are as long as they say."""
    while answer:
        head, _, rest = answer.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        yield int(head.split()[1])
        answer = rest[length:]


HOST = b"Host: localhost\r\n"
SECOND = b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n"


def page_smuggling(context):
    """Heads that two servers could read differently, each before another request, which isn't answered."""
    fields = [b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity",
              b"Transfer-Encoding:\x0bchunked", b"Content-Length: 44\r\nContent-Length: 0", b"Content-Length: +0",
              b"Content-Length: 0, 0", b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Content-Length : 5",
              b" Content-Length: 5", b"X: y\r\n Transfer-Encoding: chunked", b"X: y\rTransfer-Encoding: chunked", b"X\0: y", b"X: \0",
              b"X", b": y", b"Host: localhost", b"Host: evil.example", b"\n\r"]
    lines = [b"GET /healthz", b"GET /healthz HTTP/1.1 ", b"GET  /healthz HTTP/1.1", b"GET\t/healthz HTTP/1.1", b"GET /health\0z HTTP/1.1",
             b"GET /a b HTTP/1.1", b"get /healthz HTTP/1.1", b"GET /healthz HTTP/1.2", b"GET /healthz HTTP/2.0", b"GET /healthz HTTP/11.1",
             b"POST /healthz HTTP/1.1\r\nContent-Length: 0", b"TRACE / HTTP/1.1", b"CONNECT localhost:80 HTTP/1.1", b"\x16\x03\x01\x02\x00"]
    requests = [b"GET /healthz HTTP/1.1\r\n" + HOST + field + b"\r\n\r\n" for field in fields]
    requests += [line + b"\r\n" + HOST + b"\r\n" for line in lines]
    tries = []
    for request in requests:
        found = list(statuses(page(context, request + SECOND)))
        if len(found) != 1 or found[0] not in (400, 405, 505):
            tries.append((repr(request), found))
    return all_met(tries)


def page_hosts(context):
    """Names of strangers, as after DNS rebinding."""
    hosts = [b"evil.example", b"localhost.evil.example", b"localhost@evil.example", b"evil.example:80", b"127.0.0.1.evil.example",
             b"localhost:80@evil", b"localhost/evil", b"localhost,evil", b"", b"*", b"[::1]evil", b"[::1", b"0x7f.1", b"\xff"]
    requests = [b"GET /status.json HTTP/1.1\r\nHost: " + host + b"\r\n\r\n" for host in hosts]
    requests += [b"GET http://" + host + b"/status.json HTTP/1.1\r\n" + HOST + b"\r\n" for host in hosts]
    tries = [(repr(request), list(statuses(page(context, request)))) for request in requests]
    return all_met([(what, met) for what, met in tries if met not in ([400], [404], [421])])


def page_paths(context):
    """Paths that lead elsewhere, if anywhere."""
    paths = [b"/../../etc/passwd", b"//etc/passwd", b"/%2e%2e/%2e%2e/etc/passwd", b"/metrics/../status.json", b"/metrics%00", b"/./metrics",
             b"/\\..\\etc", b"file:///etc/passwd", b"/;a", b"/<script>", b"/%0d%0aX:%20y", b"/metrics/", b"metrics", b"#"]
    tries = []
    for path in paths:
        answer = page(context, b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        if list(statuses(answer)) not in ([400], [404]) or b"root:" in answer or b"script" in answer:
            tries.append((repr(path), answer[:60]))
    return all_met(tries)


def page_heads(context):
    """Heads that are too long, in bytes or fields, and empty lines without end."""
    tries = []
    for request in (b"GET /" + b"x" * 9_000, b"X: y\r\n" * 70, b"X: " + b"y" * 100_000, b"\r\n" * 50_000):
        head = request if request[:3] in (b"GET", b"\r\n\r") else b"GET / HTTP/1.1\r\n" + HOST + request
        found = list(statuses(page(context, head + b"\r\n\r\n")))
        if found != [431]:
            tries.append((repr(request[:20]), found))
    return all_met(tries)


def page_pipelined(context):
    """1,200 requests at once."""
    found = list(statuses(page(context, (b"GET /nothing HTTP/1.1\r\n" + HOST + b"\r\n") * 1_200)))
    return f"{len(found)} {found[-1]}"


ATTACKS = {key: value for key, value in list(globals().items()) if callable(value)}
