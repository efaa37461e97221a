//! The known servers. All run with raised limits, with their longest backlog, and without look-ups
//! and logging, so that only the start of programs is compared.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::version::{self, VersionOption};
use super::{Peer, Recipe, Transport, takes_part};
use crate::handlers::{ITSELF, find_in_path};
use crate::options::Group;

pub(super) struct Known {
    pub name: &'static str,
    pub program: &'static str,
    /// Its Debian package.
    pub package: &'static str,
    /// A second program that it needs.
    also: Option<&'static str>,
    version: VersionOption,
    /// Its command and configuration file, for each kind of socket that it supports.
    tcp: Option<&'static str>,
    unix: Option<&'static str>,
    udp: Option<&'static str>,
    config: [Option<&'static str>; 3],
    /// It runs in the background, and writes its process id to {pidfile}.
    daemonises: bool,
    processes_each: usize,
    only: Option<Group>,
    prestarts: bool,
    helpers: bool,
    p256_only: bool,
    mode_of: Option<&'static str>,
    remark: &'static str,
}

const NONE: Known = Known {
    name: "",
    program: "",
    package: "",
    also: None,
    version: VersionOption::None,
    tcp: None,
    unix: None,
    udp: None,
    config: [None, None, None],
    daemonises: false,
    processes_each: 1,
    only: None,
    prestarts: false,
    helpers: false,
    p256_only: false,
    mode_of: None,
    remark: "",
};

/// skd with all parts of a sandbox.
pub(crate) const SANDBOX: &str = "skd-sandbox";

/// skd with TLS.
pub(crate) const TLS: &str = "skd-tls";

pub(super) const KNOWN: &[Known] = &[
    Known {
        name: "skd",
        program: "skd",
        package: "none: cargo build --release",
        version: VersionOption::Long,
        tcp: Some("{program} -b 4096 -t {address}:{port} {handler}"),
        unix: Some("{program} -b 4096 -l {path} {handler}"),
        udp: Some("{program} -u {address}:{port} {handler}"),
        ..NONE
    },
    Known {
        name: "skd-per-packet",
        program: "skd",
        package: "none: cargo build --release",
        version: VersionOption::Long,
        udp: Some("{program} --datagram-mode per-packet -u {address}:{port} {handler}"),
        mode_of: Some("skd"),
        remark: "a handler for each datagram, many at once",
        ..NONE
    },
    Known {
        name: "skd-per-peer",
        program: "skd",
        package: "none: cargo build --release",
        version: VersionOption::Long,
        udp: Some("{program} --datagram-mode per-peer -u {address}:{port} {handler}"),
        mode_of: Some("skd"),
        remark: "a handler for each sender, many at once",
        ..NONE
    },
    Known {
        name: "skd-warm",
        program: "skd",
        package: "none: cargo build --release",
        version: VersionOption::Long,
        // Four for each of 8 clients, and few enough for the memory of 32 interpreters.
        tcp: Some("{program} --warm 32 -b 4096 -t {address}:{port} {handler}"),
        unix: Some("{program} --warm 32 -b 4096 -l {path} {handler}"),
        only: Some(Group::Prestart),
        prestarts: true,
        mode_of: Some("skd"),
        remark: "up to 32 prestarted handlers, each for one connection",
        ..NONE
    },
    Known {
        name: "skd-fork-server",
        program: "skd",
        package: "none: cargo build --release",
        version: VersionOption::Long,
        tcp: Some("{program} --fork-server -b 4096 -t {address}:{port} {handler}"),
        unix: Some("{program} --fork-server -b 4096 -l {path} {handler}"),
        only: Some(Group::Prestart),
        prestarts: true,
        mode_of: Some("skd"),
        remark: "a template, of which each connection gets a copy",
        ..NONE
    },
    Known {
        name: "skd-fork-server-start",
        program: "skd",
        package: "none: cargo build --release",
        version: VersionOption::Long,
        tcp: Some("{program} --fork-server=start -b 4096 -t {address}:{port} {handler}"),
        unix: Some("{program} --fork-server=start -b 4096 -l {path} {handler}"),
        only: Some(Group::Prestart),
        prestarts: true,
        mode_of: Some("skd"),
        remark: "the same; the template gets to the entry of its program",
        ..NONE
    },
    Known {
        name: "skd-fork-server-shared",
        program: "skd",
        package: "none: cargo build --release",
        version: VersionOption::Long,
        tcp: Some("{program} --fork-server=shared -b 4096 -t {address}:{port} {handler}"),
        unix: Some("{program} --fork-server=shared -b 4096 -l {path} {handler}"),
        only: Some(Group::Prestart),
        prestarts: true,
        mode_of: Some("skd"),
        remark: "the same; the template gets to the first call that is known to be harmful",
        ..NONE
    },
    Known {
        name: "skd-contain",
        program: "skd",
        package: "none: cargo build --release",
        version: VersionOption::Long,
        tcp: Some("{program} --contain -b 4096 -t {address}:{port} {handler}"),
        only: Some(Group::Sandbox),
        helpers: true,
        mode_of: Some("skd"),
        remark: "nothing is left of a handler that has ended",
        ..NONE
    },
    Known {
        name: SANDBOX,
        program: "skd",
        package: "none: cargo build --release",
        version: VersionOption::Long,
        tcp: Some("{program} --sandbox=strict -b 4096 -t {address}:{port} {handler}"),
        only: Some(Group::Sandbox),
        helpers: true,
        mode_of: Some("skd"),
        remark: "all parts of a sandbox",
        ..NONE
    },
    Known {
        name: TLS,
        program: "skd",
        package: "none: cargo build --release --package skd --package skd-tls",
        version: VersionOption::Long,
        tcp: Some("{program} --tls {certificate}:{key} -b 4096 -t {address}:{port} {handler}"),
        only: Some(Group::Tls),
        mode_of: Some("skd"),
        remark: "TLS in one process of its own for all connections",
        ..NONE
    },
    Known {
        name: "haproxy-skd",
        program: "haproxy",
        package: "haproxy",
        version: VersionOption::Line("-v", "HAProxy version"),
        tcp: Some("sh {config}"),
        config: [Some(HAPROXY), None, None],
        only: Some(Group::Tls),
        remark: "haproxy has the TLS, and tells skd of its clients by PROXY headers over a unix socket",
        ..NONE
    },
    Known {
        name: "stunnel",
        program: "stunnel",
        package: "stunnel4",
        tcp: Some("{program} {config}"),
        config: [Some(STUNNEL), None, None],
        only: Some(Group::Tls),
        remark: "listens itself; a thread for each connection, and `exec` for the handler",
        ..NONE
    },
    Known {
        name: "stunnel-inetd",
        program: "stunnel",
        package: "stunnel4",
        also: Some("tcpserver"),
        tcp: Some("tcpserver -HRl0 -c 20000 -b 4096 {address} {port} {program} {config}"),
        config: [Some(STUNNEL_INETD), None, None],
        processes_each: 2,
        only: Some(Group::Tls),
        remark: "tcpserver runs a stunnel for each connection",
        ..NONE
    },
    Known {
        name: "s6-tlsserver",
        program: "s6-tlsserver",
        package: "none: --s6-tlsserver PATH",
        tcp: Some(
            "env KEYFILE={key} CERTFILE={certificate} {program} -q -S -c 16000 -C 16000 -b 4096 -- {address} {port} \
             {handler}",
        ),
        processes_each: 2,
        only: Some(Group::Tls),
        remark: "s6-tcpserver runs s6-tlsd for each connection",
        ..NONE
    },
    Known {
        name: "socat-tls",
        program: "socat",
        package: "socat",
        version: VersionOption::Line("-V", "socat version"),
        tcp: Some(
            "{program} OPENSSL-LISTEN:{port},bind={address},backlog=4096,fork,nodelay,cert={certificate},key={key},verify=0,\
             openssl-min-proto-version=TLS1.3 EXEC:{handler}",
        ),
        processes_each: 2,
        only: Some(Group::Tls),
        p256_only: true,
        remark: "a process for each connection; agrees on keys by P-256",
        ..NONE
    },
    Known {
        name: "nsjail",
        program: "nsjail",
        package: "none: --nsjail PATH",
        // The same namespaces and user, a like filter, none of its limits, and fewer files in /dev and /etc.
        tcp: Some(
            "{program} -Q -Ml --bindhost ::ffff:{address} -p {port} -u 65534:65534:1 -g 65534:65534:1 -t 0 \
             --disable_rlimits --nice_level 0 --iface_no_lo -P {config} -R /usr -s usr/bin:/bin -s usr/lib:/lib \
             -s usr/lib64:/lib64 -T /tmp -R /dev/null -R {handler_file} -- {handler}",
        ),
        config: [Some(NSJAIL_FILTER), None, None],
        only: Some(Group::Sandbox),
        remark: "in its listen mode; makes all namespaces for each connection",
        ..NONE
    },
    Known {
        name: "skd-bwrap",
        program: "skd",
        package: "bubblewrap",
        also: Some("bwrap"),
        version: VersionOption::Long,
        tcp: Some(
            "{program} -b 4096 -t {address}:{port} bwrap --unshare-all --uid 65534 --gid 65534 --cap-drop ALL \
             --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
             --proc /proc --tmpfs /tmp --dev-bind /dev/null /dev/null --ro-bind {handler_file} {handler_file} \
             -- {handler}",
        ),
        processes_each: 3,
        only: Some(Group::Sandbox),
        remark: "skd runs bubblewrap for each connection; without a filter",
        ..NONE
    },
    Known {
        name: "tcpserver",
        program: "tcpserver",
        package: "ucspi-tcp",
        // -H -R -l0: no DNS, no ident, no look-up of its own name.
        tcp: Some("{program} -HRl0 -c 20000 -b 4096 {address} {port} {handler}"),
        ..NONE
    },
    Known {
        name: "ipsvd",
        program: "tcpsvd",
        package: "ipsvd",
        // Only the look-up of its own name is on by default, which -l avoids.
        tcp: Some("{program} -c 20000 -b 4096 -l localhost {address} {port} {handler}"),
        // A separate program of the package.
        udp: Some("udpsvd -l localhost {address} {port} {handler}"),
        ..NONE
    },
    Known {
        name: "s6-tcpserver",
        program: "s6-tcpserver",
        package: "s6-networking",
        tcp: Some("{program} -q -c 20000 -C 20000 -b 4096 {address} {port} {handler}"),
        remark: "holds at most 16,384 connections",
        ..NONE
    },
    Known {
        name: "s6-ipcserver",
        program: "s6-ipcserver",
        package: "s6",
        unix: Some("{program} -q -c 20000 -C 20000 -b 4096 {path} {handler}"),
        remark: "unix sockets only; old versions hold at most 1,000 connections",
        ..NONE
    },
    Known {
        name: "busybox",
        program: "busybox",
        package: "busybox (builds with tcpsvd)",
        version: VersionOption::FirstLine(""),
        tcp: Some("{program} tcpsvd -c 20000 -b 4096 -l localhost {address} {port} {handler}"),
        udp: Some("{program} udpsvd -l localhost {address} {port} {handler}"),
        ..NONE
    },
    Known {
        name: "xinetd",
        program: "xinetd",
        package: "xinetd",
        version: VersionOption::FirstLine("-version"),
        tcp: Some("{program} -dontfork -f {config} -pidfile {pidfile} -filelog {log}"),
        udp: Some("{program} -dontfork -f {config} -pidfile {pidfile} -filelog {log}"),
        config: [Some(XINETD_TCP), None, Some(XINETD_UDP)],
        remark: "backlog fixed at 64; discards datagrams that arrive while a handler runs",
        ..NONE
    },
    Known {
        name: "openbsd-inetd",
        program: "inetd",
        package: "openbsd-inetd",
        // -R 0 would keep the default limit of 256 a minute.
        tcp: Some("{program} -i -R 1000000000 -q 4096 {config}"),
        unix: Some("{program} -i -R 1000000000 -q 4096 {config}"),
        udp: Some("{program} -i -R 1000000000 -q 4096 {config}"),
        config: [
            Some("{address}:{port} stream tcp4 nowait {user} {handler_file} {handler_line}\n"),
            Some("{path} stream unix nowait {user} {handler_file} {handler_line}\n"),
            Some("{address}:{port} dgram udp4 wait {user} {handler_file} {handler_line}\n"),
        ],
        ..NONE
    },
    Known {
        name: "inetutils-inetd",
        program: "inetutils-inetd",
        package: "inetutils-inetd",
        version: VersionOption::Long,
        // -d would keep it in the foreground, but also log each step.
        tcp: Some("{program} -R 1000000000 -p{pidfile} {config}"),
        udp: Some("{program} -R 1000000000 -p{pidfile} {config}"),
        config: [
            Some("{address}:{port} stream tcp4 nowait {user} {handler_file} {handler_line}\n"),
            None,
            Some("{address}:{port} dgram udp4 wait {user} {handler_file} {handler_line}\n"),
        ],
        daemonises: true,
        remark: "backlog fixed at 10; sleeps a second when a handler's end interrupts its select",
        ..NONE
    },
    Known {
        name: "systemd-socket-activate",
        program: "systemd-socket-activate",
        package: "systemd",
        version: VersionOption::Long,
        tcp: Some("{program} --accept --inetd -l {address}:{port} {handler}"),
        unix: Some("{program} --accept --inetd -l {path} {handler}"),
        remark: "a tool for tests, not systemd itself",
        ..NONE
    },
    Known {
        name: "socat",
        program: "socat",
        package: "socat",
        version: VersionOption::Line("-V", "socat version"),
        // nofork passes the socket to the handler, as the other servers do.
        tcp: Some(
            "{program} TCP4-LISTEN:{port},bind={address},backlog=4096,fork EXEC:{handler},nofork",
        ),
        unix: Some("{program} UNIX-LISTEN:{path},backlog=4096,fork EXEC:{handler},nofork"),
        udp: Some("{program} UDP4-RECVFROM:{port},bind={address},fork EXEC:{handler}"),
        remark: "with nofork, which passes the socket to the handler; a relay for datagrams",
        ..NONE
    },
    Known {
        name: "socat-relay",
        program: "socat",
        package: "socat",
        version: VersionOption::Line("-V", "socat version"),
        tcp: Some("{program} TCP4-LISTEN:{port},bind={address},backlog=4096,fork EXEC:{handler}"),
        unix: Some("{program} UNIX-LISTEN:{path},backlog=4096,fork EXEC:{handler}"),
        processes_each: 2,
        only: Some(Group::Bulk),
        remark: "the common use of socat: a relay for every byte",
        ..NONE
    },
    Known {
        name: ITSELF,
        program: "env",
        package: "coreutils",
        tcp: Some("{handler} {address} {port}"),
        only: Some(Group::Scripts),
        remark: "a server in a script's language",
        ..NONE
    },
    Known {
        name: "ncat",
        program: "ncat",
        package: "ncat",
        version: VersionOption::Line("--version", "Ncat: Version"),
        tcp: Some("{program} -l -k -n -4 -m 20000 -e {handler_line} {address} {port}"),
        unix: Some("{program} -l -k -n -U -m 20000 -e {handler_line} {path}"),
        udp: Some("{program} -l -k -n -4 -u -m 20000 -e {handler_line} {address} {port}"),
        processes_each: 2,
        remark: "a relay for every byte, through pipes; backlog fixed at 10",
        ..NONE
    },
];

/// One process with a thread for each connection; a further one is forked for the handler.
const STUNNEL: &str = "\
foreground = quiet
syslog = no
debug = 3
sslVersionMin = TLSv1.3
[bench]
accept = {address}:{port}
cert = {certificate}
key = {key}
exec = {handler_file}
execArgs = {handler_line}
";

const STUNNEL_INETD: &str = "\
foreground = quiet
syslog = no
debug = 3
sslVersionMin = TLSv1.3
cert = {certificate}
key = {key}
exec = {handler_file}
execArgs = {handler_line}
";

/// Two servers, of which the shell becomes one. haproxy needs two descriptors for each of its maxconn.
const HAPROXY: &str = "\
{skd} --proxy-protocol --proxy-from unix -b 4096 -l {socket} {handler_line} &
exec {program} -db -q -f /dev/stdin <<'END'
global
    maxconn 9800
    ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
    mode tcp
    timeout connect 10s
    timeout client 600s
    timeout server 600s
listen bench
    bind {address}:{port} backlog 4096 ssl crt {both}
    server skd unix@{socket} send-proxy-v2
END
";

/// Close to what skd's filter refuses.
const NSJAIL_FILTER: &str = "\
POLICY p {
    ERRNO(1) {
        mount, umount, pivot_root, chroot, fsopen, fsmount, fsconfig, fspick, move_mount, open_tree,
        ptrace, process_vm_readv, process_vm_writev, pidfd_getfd, unshare, setns,
        bpf, perf_event_open, userfaultfd, keyctl, add_key, request_key,
        io_uring_setup, io_uring_enter, io_uring_register, open_by_handle_at, name_to_handle_at,
        kexec_load, kexec_file_load, init_module, finit_module, delete_module, reboot, swapon, swapoff,
        settimeofday, clock_settime, adjtimex, clock_adjtime, acct, quotactl, syslog, iopl, ioperm,
        personality, move_pages, mbind, migrate_pages, set_mempolicy, vhangup
    }
}
USE p DEFAULT ALLOW
";

const XINETD_TCP: &str = "\
service bench
{
    type        = UNLISTED
    socket_type = stream
    protocol    = tcp
    wait        = no
    user        = {user}
    bind        = {address}
    port        = {port}
    instances   = UNLIMITED
    per_source  = UNLIMITED
    cps         = 1000000000 1
    server      = {handler_file}
    server_args = {handler_arguments}
}
";

const XINETD_UDP: &str = "\
service bench
{
    type        = UNLISTED
    socket_type = dgram
    protocol    = udp
    wait        = yes
    user        = {user}
    bind        = {address}
    port        = {port}
    instances   = UNLIMITED
    per_source  = UNLIMITED
    cps         = 1000000000 1
    server      = {handler_file}
    server_args = {handler_arguments}
}
";

impl Known {
    /// Whether the server takes part in one of the groups; no group stands for all.
    pub(super) fn is_measured(&self, groups: &[Group]) -> bool {
        groups.is_empty() || groups.iter().any(|group| takes_part(self.only, *group))
    }

    /// Whether the program can be measured: busybox only if it was built with tcpsvd, and what needs a second
    /// program if that is there.
    pub(super) fn is_usable(&self, program: &Path) -> bool {
        if self.also.is_some_and(|also| find_in_path(also).is_err()) {
            return false;
        }
        if self.program != "busybox" {
            return true;
        }
        Command::new(program)
            .arg("--list")
            .output()
            .is_ok_and(|output| {
                output
                    .stdout
                    .split(|byte| *byte == b'\n')
                    .any(|applet| applet == b"tcpsvd")
            })
    }

    /// Whether this is skd for stream sockets, in one of its modes.
    pub(super) fn is_skd_stream(&self) -> bool {
        self.program == "skd" && self.tcp.is_some()
    }

    /// Returns the same mode of an earlier skd.
    pub(super) fn before(&self, program: PathBuf) -> Peer {
        Peer {
            name: self.name.replacen("skd", "skd-before", 1),
            mode_of: None,
            before_of: Some(self.name.to_owned()),
            ..self.peer(program)
        }
    }

    pub(super) fn peer(&self, program: PathBuf) -> Peer {
        let commands = [
            (Transport::Tcp, self.tcp),
            (Transport::Unix, self.unix),
            (Transport::Udp, self.udp),
        ];
        let recipes =
            commands
                .into_iter()
                .zip(self.config)
                .filter_map(|((transport, command), config)| {
                    let words = command?.split(' ').map(str::to_owned).collect();
                    let config = config.map(str::to_owned);
                    Some((
                        transport,
                        Recipe {
                            words,
                            config,
                            daemonises: self.daemonises,
                        },
                    ))
                });
        Peer {
            name: self.name.to_owned(),
            version: version::of(&program, self.package, self.version),
            recipes: recipes.collect(),
            processes_each: self.processes_each,
            only: self.only,
            prestarts: self.prestarts,
            helpers: self.helpers,
            p256_only: self.p256_only,
            mode_of: self.mode_of,
            before_of: None,
            remark: self.remark,
            program,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(groups: &[Group]) -> Vec<&'static str> {
        let known = KNOWN.iter().filter(|known| known.is_measured(groups));
        known.map(|known| known.name).collect()
    }

    #[test]
    fn only_servers_of_the_measured_groups_can_be_missing() {
        let tls = measured(&[Group::Tls]);
        assert!(tls.contains(&"stunnel"), "{tls:?}");
        assert!(!tls.contains(&"tcpserver"), "{tls:?}");
        let rates = measured(&[Group::Rates]);
        assert!(rates.contains(&"tcpserver"), "{rates:?}");
        assert!(!rates.contains(&"stunnel"), "{rates:?}");
        assert_eq!(measured(&[]).len(), KNOWN.len());
    }
}
