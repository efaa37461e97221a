//! Reading the files of xinetd(8), as its own parser does: what it ignores with a line in its log, or
//! leaves out, is a fault here.

mod access;
mod files;
mod service;
mod settings;
mod syntax;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::foreign::{LookUp, addresses, fault, make_names_unique};
use super::read::file as read_file;
use crate::config::ServiceText;
use crate::error::Error;

use settings::{Kind, Said, Settings};
use syntax::{Attribute, Block, Item};

/// The files with which xinetd restricts services that don't have the flag NOLIBWRAP.
const WRAPPERS: [&str; 2] = ["/etc/hosts.allow", "/etc/hosts.deny"];

/// A service as it is written, with what `defaults` had before it.
struct Entry {
    name: OsString,
    block: Block,
    defaults: Settings,
}

/// Reads a file with what it includes, or a directory.
pub(super) fn read(path: &Path, faults: &mut Vec<Error>) -> Vec<ServiceText> {
    let mut own = Vec::new();
    let items = files::read(path, &mut own);
    let services = services(items, &WRAPPERS.map(Path::new), &addresses, &mut own);
    // A line of defaults is refused for each service.
    let mut said = HashSet::new();
    own.retain(|fault| said.insert(fault.to_string()));
    faults.append(&mut own);
    services
}

/// Parses the text of one file without what it includes, for tests. No host is looked up.
pub fn parse(text: &[u8], faults: &mut Vec<Error>) -> Vec<ServiceText> {
    let items = syntax::parse(Path::new("xinetd.conf"), text, faults);
    let look_up = |name: &str| Err(format!("{name} isn't looked up"));
    services(vec![items], &[], &look_up, faults)
}

/// Returns the services of files, each file with its items in order.
fn services(
    files: Vec<Vec<Item>>,
    wrappers: &[&Path],
    look_up: LookUp<'_>,
    faults: &mut Vec<Error>,
) -> Vec<ServiceText> {
    let mut defaults = Settings::default();
    let mut said = Vec::new();
    let mut entries: Vec<Entry> = Vec::new();
    for file in files {
        let mut has_defaults = false;
        for item in file {
            match item {
                Item::Defaults(block) => {
                    if std::mem::replace(&mut has_defaults, true) {
                        let why = "defaults are set already in this file; xinetd ignores these";
                        faults.push(fault(&block.location, why));
                        continue;
                    }
                    let late = Settings::needs_to_be_first(&block);
                    if let Some(late) = late.filter(|_| !entries.is_empty()) {
                        let why = format!(
                            "xinetd applies {} in defaults only to services after it: write \
                             defaults before all services",
                            late.name
                        );
                        faults.push(fault(&late.location, why));
                    }
                    said.extend(defaults.apply(Kind::Defaults, block.attributes));
                }
                Item::Service(_, block) if is_disabled(&block, faults) => {}
                Item::Service(name, block) => entries.push(Entry {
                    name,
                    block,
                    defaults: defaults.inherited(),
                }),
                Item::Include(..) | Item::IncludeDir(..) => {}
            }
        }
    }
    let mut notes = Vec::new();
    for (location, said) in said {
        match said {
            Said::Fault(why) => faults.push(fault(&location, why)),
            Said::Note(note) => notes.push((location, note)),
        }
    }
    for (name, (_, location)) in &defaults.lists {
        if let Some(note) = service::log_note(name, &defaults) {
            notes.push((location.clone(), note));
        }
    }
    if let Some(log_type) = defaults.single.get("log_type") {
        let note = "log_type doesn't count: skd logs by its own option --log";
        notes.push((log_type.location.clone(), note.to_owned()));
    }
    let mut wrapped = wrappers.iter().find(|path| restricts(path));
    let mut found = Vec::new();
    for entry in entries {
        let Entry {
            name,
            block,
            defaults: inherited,
        } = entry;
        if !is_enabled(&name, &block, &defaults) {
            continue;
        }
        let location = block.location.clone();
        let mut settings = inherited;
        let said = settings.apply(Kind::Service, block.attributes);
        let is_free = service::has_flag(&settings, "NOLIBWRAP");
        if let Some(path) = wrapped.take_if(|_| !is_free) {
            let why = format!(
                "xinetd asks {} which clients it may serve, and skd doesn't: write its lines as \
                 only_from and no_access, and give all services the flag NOLIBWRAP",
                path.display()
            );
            faults.push(fault(&location, why));
        }
        found.extend(service::text(
            &name, &location, &settings, &defaults, said, look_up, faults,
        ));
    }
    make_names_unique(&mut found);
    let mut found: Vec<ServiceText> = found.into_iter().map(|(service, _)| service).collect();
    if let Some(first) = found.first_mut() {
        // They are the same for all services.
        notes.append(&mut first.notes);
        first.notes = notes;
    }
    found
}

/// Whether an entry is switched off: the first line with `disable` counts.
fn is_disabled(block: &Block, faults: &mut Vec<Error>) -> bool {
    let Some(line) = first(block, "disable") else {
        return false;
    };
    match line.values.first().and_then(|word| word.to_str()) {
        Some("yes") => true,
        Some("no") | None => false,
        Some(_) => {
            faults.push(fault(&line.location, "disable is yes or no"));
            false
        }
    }
}

/// Whether the lists in `defaults` leave a service enabled. They name services by their ids.
fn is_enabled(name: &OsStr, block: &Block, defaults: &Settings) -> bool {
    let id = first(block, "id").and_then(|line| line.values.first());
    let id = id.map_or(name, OsString::as_os_str);
    let contains = |list: &str| {
        let (names, _) = defaults.lists.get(list)?;
        Some(names.iter().any(|it| it == id))
    };
    contains("enabled") != Some(false) && contains("disabled") != Some(true)
}

fn first<'a>(block: &'a Block, name: &str) -> Option<&'a Attribute> {
    block.attributes.iter().find(|line| line.name == name)
}

/// Whether a file of hosts_access(5) has a line that isn't a comment.
fn restricts(path: &Path) -> bool {
    // A file that is there but can't be read may say anything.
    match read_file(path) {
        Ok(text) => text.split(|byte| *byte == b'\n').any(|line| {
            let line = line.trim_ascii();
            !line.is_empty() && !line.starts_with(b"#")
        }),
        Err(_) => path.symlink_metadata().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::files::foreign::shown;

    /// What is read: a line for each service, and faults.
    fn read_text(text: &str) -> (Vec<String>, Vec<String>) {
        let mut faults = Vec::new();
        let services = parse(text.as_bytes(), &mut faults);
        let shown = services.iter().map(shown);
        let shown = shown.collect();
        (shown, faults.iter().map(ToString::to_string).collect())
    }

    const COMMON: &str =
        "type = UNLISTED\nsocket_type = stream\nwait = no\nuser = root\nport = 8000\n";

    /// Returns the options and the command of a service with these lines too.
    fn read_service(lines: &str) -> Result<String, Vec<String>> {
        let own = |line: &&str| {
            let name = line.split(' ').next().unwrap_or_default();
            !lines
                .lines()
                .any(|other| other.split(' ').next() == Some(name))
        };
        let common: Vec<&str> = COMMON.lines().filter(own).collect();
        let text = format!("service x\n{{\n{}\n{lines}\n}}\n", common.join("\n"));
        let (services, faults) = read_text(&text);
        match &services[..] {
            [service] if faults.is_empty() => {
                let service = service.strip_prefix("[x] ").unwrap();
                Ok(service.replace(" stderr=client", ""))
            }
            _ => Err(faults),
        }
    }

    fn accepts(lines: &str, expected: &str) {
        assert_eq!(read_service(lines).as_deref(), Ok(expected), "{lines}");
    }

    fn refuses(lines: &str, reason: &str) {
        let faults = read_service(lines).unwrap_err();
        assert!(
            faults.len() == 1 && faults[0].contains(reason),
            "{lines}: {faults:?}"
        );
        assert!(faults[0].starts_with("xinetd.conf:"), "{faults:?}");
    }

    #[test]
    fn attributes_become_options() {
        let user = "user=nobody";
        for (lines, expected) in [
            ("", "tcp=8000 argv0=run '/srv/run'"),
            (
                "server_args = -a  'b c'",
                "tcp=8000 argv0=run '/srv/run' '-a' ''b' 'c''",
            ),
            (
                "flags = NAMEINARGS\nserver_args = me a",
                "tcp=8000 argv0=me '/srv/run' 'a'",
            ),
            (
                "flags = nodelay KeepAlive reuse",
                "nodelay keepalive tcp=8000 argv0=run '/srv/run'",
            ),
            ("flags = IPv4", "tcp=0.0.0.0:8000 argv0=run '/srv/run'"),
            ("flags = IPv6", "tcp=8000 argv0=run '/srv/run'"),
            ("v6only = yes", "tcp=[::]:8000 argv0=run '/srv/run'"),
            (
                "bind = 127.0.0.1",
                "tcp=127.0.0.1:8000 argv0=run '/srv/run'",
            ),
            ("interface = ::1", "tcp=[::1]:8000 argv0=run '/srv/run'"),
            ("bind = ::", "tcp=8000 argv0=run '/srv/run'"),
            ("bind = 0.0.0.0", "tcp=0.0.0.0:8000 argv0=run '/srv/run'"),
            ("wait = yes", "wait tcp=8000 argv0=run '/srv/run'"),
            (
                "wait = yes\nprotocol = udp\nsocket_type = dgram\ninstances = 1\nper_source = 11\ncps = 1 2",
                "udp=8000 argv0=run '/srv/run'",
            ),
            (
                "instances = 5\nper_source = 2",
                "tcp=8000 argv0=run max-clients=5 at-max=close max-per-source=2 at-source-max=close \
                 source-prefix=32,128 '/srv/run'",
            ),
            (
                "instances = UNLIMITED\ncps = 0 1",
                "tcp=8000 argv0=run '/srv/run'",
            ),
            ("cps = 25 30", "tcp=8000 argv0=run rate=25/s '/srv/run'"),
            (
                "umask = 027\nnice = -5",
                "tcp=8000 argv0=run umask=027 nice=-5 '/srv/run'",
            ),
            (
                "rlimit_as = 10m\nrlimit_cpu = UNLIMITED\nrlimit_files = 64",
                "tcp=8000 argv0=run limit=as=10M limit=cpu=unlimited limit=nofile=64 '/srv/run'",
            ),
            (
                "env = A=1 B=2\nenv += C=3",
                "tcp=8000 argv0=run env=A=1 env=B=2 env=C=3 '/srv/run'",
            ),
            (
                "env = A=1\nenv = B=",
                "tcp=8000 argv0=run env=B= '/srv/run'",
            ),
            (
                "passenv =\nenv = A=1",
                "tcp=8000 argv0=run clear-env env=A=1 '/srv/run'",
            ),
            ("user = nobody", "tcp=8000 argv0=run USER '/srv/run'"),
            (
                "user = nobody\ngroup = daemon",
                "tcp=8000 argv0=run USER:daemon '/srv/run'",
            ),
            ("user = 77", "tcp=8000 argv0=run user=77:77 '/srv/run'"),
            (
                "user = 77\ngroup = 8",
                "tcp=8000 argv0=run user=77:8 '/srv/run'",
            ),
            ("user = root\ngroup = root", "tcp=8000 argv0=run '/srv/run'"),
            (
                "redirect = 192.0.2.1 80",
                "tcp=8000 'skd-forward' '192.0.2.1:80'",
            ),
            (
                "redirect = 2001:db8::1 80",
                "tcp=8000 'skd-forward' '[2001:db8::1]:80'",
            ),
            (
                "only_from = 10.0.0.0\nno_access = 10.1.0.0",
                "tcp=8000 argv0=run deny=10.1.0.0/16 allow=10.0.0.0/8 '/srv/run'",
            ),
            (
                "flags = IPv4\nonly_from = ::/0",
                "tcp=0.0.0.0:8000 argv0=run allow=::/0 '/srv/run'",
            ),
            (
                "log_on_success = pid HOST userid\nlog_type = FILE /x",
                "tcp=8000 argv0=run '/srv/run'",
            ),
            (
                "banner_success = /etc/motd\nserver_args = a",
                "tcp=8000 '/bin/sh' '-c' 'cat \"$1\" 2>/dev/null; shift; exec \"$@\"' 'sh' \
                 '/etc/motd' '/srv/run' 'a'",
            ),
            (
                "deny_time = NEVER\nmdns = no\ndisable = no",
                "tcp=8000 argv0=run '/srv/run'",
            ),
        ] {
            let expected = expected.replace("USER", user);
            accepts(&format!("server = /srv/run\n{lines}"), &expected);
        }
    }

    #[test]
    fn built_in_services_get_stand_ins() {
        let read_internal = |name: &str, lines: &str| {
            let (services, faults) = read_text(&format!(
                "service {name}\n{{\ntype = INTERNAL UNLISTED\nport = 8000\n{lines}\n}}\n"
            ));
            assert_eq!(faults, Vec::<String>::new());
            services[0].clone()
        };
        let stream = "socket_type = stream\nwait = no";
        let datagrams = "socket_type = dgram\nwait = yes\nuser = root\nid = x";
        assert_eq!(
            read_internal("echo", stream),
            "[echo] tcp=8000 user=nobody '/bin/cat'"
        );
        assert_eq!(
            read_internal("echo", &format!("{stream}\nuser = daemon\ninstances = 3")),
            "[echo] tcp=8000 user=daemon max-clients=3 at-max=close '/bin/cat'"
        );
        assert_eq!(
            read_internal("discard", datagrams),
            "[x] udp=8000 datagram-mode=per-packet user=nobody '/bin/sh' '-c' 'exec cat >/dev/null'"
        );
        assert!(read_internal("daytime", stream).contains("env=LC_ALL=C user=nobody '/bin/date'"));
    }

    #[test]
    fn entries_are_found_as_xinetd_finds_them() {
        let entry = |name: &str, port: u16| {
            format!(
                "service {name}\n{{\n type = UNLISTED\n socket_type = stream\n wait = no\n user = \
                 root\n server = /bin/cat\n port = {port}\n}}\n"
            )
        };
        let names = |text: &str| {
            let (services, faults) = read_text(text);
            let name = |line: &String| line[1..line.find(']').unwrap()].to_owned();
            (services.iter().map(name).collect::<Vec<_>>(), faults)
        };
        let two = format!("# a\n\n{}  # b\n{}", entry("a", 1), entry("b", 2));
        assert_eq!(names(&two), (vec!["a".into(), "b".into()], vec![]));
        let stray = format!("{}}}\n{}", entry("a", 1), entry("b", 2));
        let (found, faults) = names(&stray);
        assert_eq!(found, ["a", "b"]);
        assert!(
            faults[0].starts_with("xinetd.conf:10:1: this } closes"),
            "{faults:?}"
        );
        let open = entry("a", 1).replace("}\n", "") + &entry("b", 2);
        let (found, faults) = names(&open);
        assert_eq!(found, ["b"]);
        assert!(
            faults.len() == 1 && faults[0].contains(":1:1: the entry has no }"),
            "{faults:?}"
        );
        let same_line = entry("a", 1).replace("a\n{", "a {") + &entry("b", 2);
        let (found, faults) = names(&same_line);
        assert_eq!(found, ["b"]);
        assert!(
            faults.len() == 1 && faults[0].contains("the next line must be {"),
            "{faults:?}"
        );
        let other = format!("sevice a\n{{\n a = b\n}}\n{}", entry("b", 2));
        let (found, faults) = names(&other);
        assert_eq!(found, ["b"]);
        assert!(
            faults.len() == 1 && faults[0].contains(":1:1: an entry begins"),
            "{faults:?}"
        );
        let (found, faults) = names("service\n{\n}\n");
        assert!(found.is_empty() && faults.len() == 1, "{faults:?}");
        let twice = entry("a", 1) + &entry("a", 2) + &entry("a", 3);
        assert_eq!(names(&twice).0, ["a", "a-tcp", "a-2"]);
        let returns = entry("a", 1).replace('\n', "\r\n");
        assert!(names(&returns).1[0].contains("carriage returns"));
        assert!(names("service a\n{\n id = \0\n}\n").1[0].contains("NUL"));
    }

    #[test]
    fn an_entry_that_is_disabled_is_left_out() {
        let (services, faults) = read_text(
            "service a\n{\n disable = yes\n what ever\n}\nservice b\n{\n junk\n disable = yes\n}\n\
             service c\n{\n socket_type = raw\n disable = yes\n}\n",
        );
        assert_eq!((services, faults), (vec![], vec![]));
        refuses("server = /x\ndisable = maybe", "disable is yes or no");
        refuses("server = /x\ndisable =", "disable has no value");
        let (services, faults) = read_text(&format!(
            "defaults\n{{\n disabled = b\n enabled = a b\n}}\nservice x\n{{\n id = a\n{COMMON}\
             server = /x\n}}\nservice b\n{{\n}}\nservice c\n{{\n}}\n"
        ));
        assert_eq!((services.len(), faults), (1, vec![]));
        assert!(services[0].starts_with("[a] "), "{services:?}");
    }

    #[test]
    fn defaults_are_those_before_a_service() {
        let text = |before: &str, lines: &str| {
            let service = format!("service x\n{{\n{COMMON}server = /x\n{lines}\n}}\n");
            let (services, faults) = read_text(&format!("{before}{service}"));
            assert_eq!(faults, Vec::<String>::new());
            services[0].replace(" tcp=8000 argv0=x", "")
        };
        let defaults = "defaults\n{\n only_from = 10.0.0.0\n only_from = ::1\n umask = 022\n \
                        per_source = 3\n groups = yes\n}\n";
        let limit =
            "max-per-source=3 at-source-max=close source-prefix=32,128 stderr=client umask=022";
        for (lines, rules) in [
            ("", " allow=10.0.0.0/8 allow=::1"),
            ("only_from = 192.0.2.1", " allow=192.0.2.1"),
            (
                "only_from += 192.0.2.1",
                " allow=10.0.0.0/8 allow=192.0.2.1 allow=::1",
            ),
            (
                "only_from -= ::1\nno_access = 10.0.0.1",
                " deny=10.0.0.1 allow=10.0.0.0/8",
            ),
            ("only_from =", " deny=all"),
        ] {
            assert_eq!(
                text(defaults, lines),
                format!("[x] {limit}{rules} '/x'"),
                "{lines}"
            );
        }
        let own = text(
            defaults,
            "umask = 077\nper_source = UNLIMITED\nonly_from = 0.0.0.0 ::/0",
        );
        assert_eq!(
            own,
            "[x] stderr=client umask=077 allow=0.0.0.0/0 allow=::/0 '/x'"
        );
        for (text, reason) in [
            (
                "defaults\n{\n}\ndefaults\n{\n}\n",
                ":4:1: defaults are set already",
            ),
            (
                "defaults\n{\n user = x\n}\n",
                ":3:2: xinetd ignores user in defaults",
            ),
            (
                "service x\n{\n}\ndefaults\n{\n only_from = ::1\n}\n",
                ":6:2: xinetd applies only_from in defaults only to services after it",
            ),
        ] {
            let (_, faults) = read_text(text);
            assert!(
                faults.iter().any(|it| it.contains(reason)),
                "{text}: {faults:?}"
            );
        }
    }

    #[test]
    fn lines_count_as_in_xinetd_or_are_refused() {
        let server = "server = /x\n";
        accepts(
            &format!("{server}nice = 5 # a"),
            "tcp=8000 argv0=x nice=5 '/x'",
        );
        accepts(
            &format!("{server}nice = 5\nnice = 6"),
            "tcp=8000 argv0=x nice=5 '/x'",
        );
        accepts(
            "server = /x # y\nserver_args = a # b",
            "tcp=8000 argv0=x '/x' 'a' '#' 'b'",
        );
        for (line, reason) in [
            ("nice = 5 6", "6 is too much"),
            ("nice += 5", "nice takes = only"),
            ("nice=5", "a blank between nice and ="),
            ("nice 5", "nice needs a blank and ="),
            ("nice", "nice needs a blank and ="),
            ("nice =", "nice has no value"),
            ("cps = 5", "cps takes 2 values"),
            ("frob = 5", "no attribute frob"),
            ("server_args =", "server_args has no value"),
            ("flags =", "flags has no value"),
            ("enabled = x", "belongs into defaults"),
            ("env -= A=1", "env doesn't take -="),
            ("env = A", "env: A has no ="),
            ("only_from = .example.org", "is a domain"),
            ("no_access = 10.0.0.0/255.0.0.0", "a number of bits"),
        ] {
            refuses(&format!("{server}{line}"), reason);
        }
        refuses("server = /bin/sh -i", "-i is too much");
    }

    #[test]
    fn what_skd_cannot_do_is_refused() {
        for (line, reason) in [
            ("access_times = 1:00-2:00", "no clock"),
            ("max_load = 2.5", "the load"),
            ("deny_time = FOREVER", "remember clients"),
            ("mdns = yes", "announce"),
            ("rpc_version = 1", "rpcbind"),
            ("type = RPC UNLISTED", "rpcbind"),
            ("type = TCPMUX UNLISTED", "tcpmux"),
            ("flags = sensor", "remember clients"),
            ("flags = IDONLY", "asked for their users"),
            ("flags = labeled", "SELinux"),
            ("flags = frob", "no such flag"),
            ("socket_type = raw", "no raw service"),
            ("protocol = sctp", "no sctp service"),
            ("protocol = udp", "mixed"),
            ("wait = maybe", "wait is yes or no"),
            ("port = 70000", "no port from 1"),
            ("port = nonsense-port", "no name in services(5)"),
            ("user = root\ngroup = daemon", "name a user of its own"),
            ("flags = NAMEINARGS", "server_args has the name"),
            ("redirect = ::1 frob", "no name in services(5)"),
            ("bind = ::1\nflags = IPv4", "but the flag IPv4"),
            ("wait = yes\nonly_from = 10.0.0.1", "service x waits"),
            ("wait = yes\nbanner = /etc/motd", "wait mode"),
            ("socket_type = dgram", "has to wait"),
            ("type = UNLISTED INTERNAL", "no built-in service x"),
        ] {
            refuses(&format!("server = /x\n{line}"), reason);
        }
        refuses("port = 8000", "the service has no server");
        let (_, faults) = read_text(
            "service frob\n{\n socket_type = stream\n wait = no\n user = root\n \
             server = /x\n}\n",
        );
        assert!(
            faults[0].contains("services(5) has none for frob/tcp"),
            "{faults:?}"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(
            lines in proptest::collection::vec(prop_oneof![
                Just("service a".to_owned()),
                Just("defaults".to_owned()),
                Just("{".to_owned()),
                Just("}".to_owned()),
                (0..50_usize, "[ =+-]{1,4}", "[a-zA-Z0-9.:/{},# =]{0,12}")
                    .prop_map(|(name, by, value)| {
                        format!("{} {by} {value}", settings::name_for_tests(name))
                    }),
                any::<String>(),
            ], 0..30),
        ) {
            let text = lines.join("\n");
            let mut faults = Vec::new();
            let services = parse(text.as_bytes(), &mut faults);
            let last = text.split('\n').count() as u32;
            for service in services {
                prop_assert!(!service.command.is_empty() && !service.options.is_empty());
                let options = service.options.iter().map(|it| &it.location);
                prop_assert!(options.chain([&service.location]).all(|it| (1..=last).contains(&it.line)));
            }
            for fault in faults {
                prop_assert!(fault.to_string().starts_with("xinetd.conf:"), "{}", fault);
            }
        }
    }
}
