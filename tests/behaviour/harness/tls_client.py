"""A client of TLS for tests: a command a line, and an answer a line.

    connect NAME PORT [SESSION]   ok SERIAL new|resumed, or fail WHY; retried as long as it can't connect
    echo NAME TEXT                ok, or fail WHY: TEXT was sent, and has come back
    keep NAME SESSION             ok: keeps the session of a connection that has read something
    finish NAME                   close_notify, cut or reset: what the end is, after its own close_notify
    end NAME                      close_notify, cut or reset: what the end is
    close NAME                    ok: closed without close_notify
"""

import socket
import ssl
import sys
import time

connections, sessions = {}, {}
context = ssl.create_default_context(cafile=sys.argv[1])


def why(error):
    return f"fail {type(error).__name__} {error}".replace("\n", " ")


def connect(name, port, session=None):
    deadline = time.monotonic() + 30
    while True:
        try:
            plain = socket.create_connection(("127.0.0.1", int(port)), timeout=30)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                return why(error)
            time.sleep(0.01)
    try:
        tls = context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False,
                                  session=sessions[session] if session else None)
    except OSError as error:
        return why(error)
    connections[name] = tls
    return f"ok {tls.getpeercert()['serialNumber']} {'resumed' if tls.session_reused else 'new'}"


def echo(name, text):
    tls, wanted = connections[name], text.encode()
    try:
        tls.sendall(wanted)
        got = b""
        while len(got) < len(wanted):
            part = tls.recv(len(wanted) - len(got))
            if not part:
                return "fail it has ended"
            got += part
    except OSError as error:
        return why(error)
    return "ok" if got == wanted else f"fail got {got!r}"


def keep(name, session):
    sessions[session] = connections[name].session
    return "ok"


def end(name):
    tls = connections.pop(name)
    try:
        while tls.recv(65536):
            pass
        return "close_notify"
    except ssl.SSLEOFError:
        return "cut"
    except ConnectionResetError:
        return "reset"
    except OSError as error:
        return why(error)


def finish(name):
    tls = connections[name]
    try:
        tls.unwrap()
        connections.pop(name)
        return "close_notify"
    except ssl.SSLEOFError:
        return "cut"
    except ConnectionResetError:
        return "reset"
    except OSError as error:
        return why(error)


def close(name):
    connections.pop(name).close()
    return "ok"


commands = {f.__name__: f for f in (connect, echo, keep, end, finish, close)}
for line in sys.stdin:
    command, *words = line.split()
    print(commands[command](*words), flush=True)
