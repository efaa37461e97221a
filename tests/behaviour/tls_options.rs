//! The options of TLS: what is refused, which files are opened, and what a check says of them.

use crate::harness::{Directory, Leaf, Output, Pki, Skd, requires_root, run_to_end, skd_tls};
use std::fs;
use std::os::unix::fs::{chown, symlink};

/// A user with no account.
const STRANGER: u32 = 61234;

/// Asserts a refusal for bad usage.
#[track_caller]
fn refused(words: &[&str], parts: &[&str]) {
    run_to_end(words).expect_refusal(2, parts);
}

/// The same, of a service with TLS at a TCP port.
#[track_caller]
fn refused_with_tls(words: &[&str], parts: &[&str]) {
    refused(
        &[&["-t", "127.0.0.1:0", "--tls", "/x"], words, &["cat"]].concat(),
        parts,
    );
}

#[test]
fn tls_is_for_streams_that_skd_accepts() {
    let none = "--tls has no use without a stream listener whose connections skd accepts";
    for (words, part) in [
        (&[][..], none),
        (
            &["-u", "127.0.0.1:0"],
            "--tls can't be used with --udp 127.0.0.1:0: TLS is for streams of bytes",
        ),
        (
            &["-u", "127.0.0.1:0", "--datagram-mode", "per-peer"],
            "--tls can't be used with --udp 127.0.0.1:0: TLS is for streams of bytes",
        ),
        (
            &["-t", "127.0.0.1:0", "-u", "127.0.0.1:0"],
            "--tls can't be used with --udp 127.0.0.1:0: TLS is for streams of bytes",
        ),
        (
            &["--seqpacket", "-l", "@name"],
            "--tls can't be used with --unix @name: TLS is for streams of bytes",
        ),
        (
            &["-t", "127.0.0.1:0", "--wait"],
            "--tls can't be used with --wait: PROG accepts the connections itself",
        ),
        (
            &["-t", "127.0.0.1:0", "-S"],
            "--tls can't be used with --supervise: PROG accepts the connections itself",
        ),
        (&["-S"], "--tls can't be used with --supervise"),
        (
            &["-l", "@name", "--as-peer"],
            "--as-peer can't be used with --tls: a handler's connection leads to skd-tls",
        ),
    ] {
        refused(&[&["--tls", "/x"], words, &["cat"]].concat(), &[part]);
    }
}

#[test]
fn a_socket_of_datagrams_that_is_inherited_is_refused() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let directory = Directory::new();
    let key = directory.write("key", "");
    directory.chmod("key", 0o600);
    let output = Skd::new(["--listen-fd", "3", "--tls"])
        .arg(key)
        .arg("cat")
        .descriptor(3, socket)
        .end();
    output.expect_refusal(
        2,
        &["--tls can't be used with ", "TLS is for streams of bytes"],
    );
}

#[test]
fn options_of_tls_need_what_they_are_about() {
    for option in [
        "--tls-strict-sni",
        "--tls-client-ca=/x",
        "--tls-client=optional",
        "--tls-crl=/x",
        "--tls-ocsp=/x",
        "--tls-min=1.3",
        "--tls-alpn=h2",
        "--tls-timeout=1s",
        "--tls-user=nobody",
        "--tls-program=/x",
        "--tls-keylog=/x",
    ] {
        let name = option.split('=').next().unwrap();
        let part = format!("{name} has no use without --tls");
        refused(&["-t", "127.0.0.1:0", option, "cat"], &[&part]);
    }
    for option in ["--tls-client=required", "--tls-crl=/x"] {
        let name = option.split('=').next().unwrap();
        let part = format!("{name} has no use without --tls-client-ca: no client is asked for");
        refused_with_tls(&[option], &[&part]);
    }
    // Here, unix sockets can have it.
    let idle = ["-l", "@name", "--idle-timeout", "1s"];
    let part = "--idle-timeout has no use without a TCP listener";
    refused(&[&idle[..], &["cat"]].concat(), &[part]);
    let output = Skd::new(idle).args(["--tls", "/no/such", "cat"]).end();
    output.expect_refusal(1, &["--tls: the certificate /no/such can't be opened"]);
}

#[test]
fn wrong_values_are_refused_with_the_right_ones() {
    let long = "x".repeat(256);
    for (option, value, part) in [
        ("tls", "", "a path in it is empty"),
        ("tls", "a:", "a path in it is empty"),
        (
            "tls",
            "a:b:c",
            "CERT or CERT:KEY; a colon in a path is written as \\:",
        ),
        (
            "tls",
            "a\\b",
            "a backslash in a path is written as \\\\, and a colon as \\:",
        ),
        ("tls-client-ca", "", "the path is empty"),
        ("tls-client", "none", "it takes optional or required"),
        (
            "tls-min",
            "1.1",
            "it takes 1.2 or 1.3; skd-tls has no older versions",
        ),
        (
            "tls-alpn",
            "",
            "names with commas between them, each 1 to 255 bytes",
        ),
        ("tls-alpn", "h2,,http/1.1", "each 1 to 255 bytes"),
        ("tls-alpn", "h2, http/1.1", "without blanks"),
        ("tls-alpn", &long, "each 1 to 255 bytes"),
        ("tls-timeout", "0s", "it takes a duration that isn't zero"),
        ("tls-user", "root", "this must not be root"),
        ("tls-program", "", "the path is empty"),
    ] {
        let word = format!("--{option}={value}");
        let name = format!("invalid value '{value}' for --{option}: ");
        refused_with_tls(&[&word], &[&name, part]);
    }
    refused_with_tls(
        &["--tls-alpn=h2,http/1.1", "--tls-alpn=h2"],
        &["--tls-alpn names h2 twice"],
    );
}

/// Prints the configuration of a file in TOML, with DIR for the directory.
fn printed(directory: &Directory, text: &str) -> String {
    directory.write("skd.toml", text);
    let skd = Skd::new(["--config", "skd.toml", "--print-config"]);
    let output = skd.cwd(directory.path()).end();
    output.expect_code(0);
    output
        .stdout
        .replace(directory.path().to_str().unwrap(), "DIR")
}

#[test]
fn files_have_lists_and_paths_that_begin_in_their_directory() {
    let directory = Directory::new();
    let text = "[daemon]\ntls-keylog = 'keys.log'\ntls-program = './skd-tls'\n\
                [defaults]\ntls-min = 1.3\n\
                [service.a]\ntcp = 443\ntls = ['a.pem:/b.key', '/c\\:d.pem', 'e\\\\f']\n\
                tls-client-ca = ['ca.pem', '/ca.pem']\ntls-crl = 'crl'\ntls-ocsp = ['o']\n\
                tls-alpn = ['h2', 'http/1.1,x']\ntls-strict-sni = true\ncommand = ['cat']\n";
    assert_eq!(
        printed(&directory, text),
        "[daemon]\n\
         tls-keylog = \"DIR/keys.log\"\n\
         tls-program = \"DIR/skd-tls\"\n\
         \n\
         # from skd.toml:6:10\n\
         [service.a]\n\
         tls-min = \"1.3\"\n\
         tcp = 443\n\
         tls = [\"DIR/a.pem:/b.key\", \"/c\\\\:d.pem\", \"DIR/e\\\\\\\\f\"]\n\
         tls-client-ca = [\"DIR/ca.pem\", \"/ca.pem\"]\n\
         tls-crl = \"DIR/crl\"\n\
         tls-ocsp = \"DIR/o\"\n\
         tls-alpn = [\"h2\", \"http/1.1,x\"]\n\
         tls-strict-sni = true\n\
         command = [\"cat\"]\n"
    );
    // The directory is escaped, too.
    let odd = Directory::new();
    fs::create_dir(odd.join("a:b\\c")).unwrap();
    let file = odd.write(
        "a:b\\c/skd.toml",
        "[service.a]\ntcp = 1\ntls = 'x:y'\ncommand = ['a']\n",
    );
    let output = Skd::new(["--print-config", "--config"]).arg(file).end();
    let here = odd.path().to_str().unwrap();
    let path = format!("{here}/a\\\\:b\\\\\\\\c/");
    assert!(
        output
            .stdout
            .contains(&format!("tls = \"{path}x:{path}y\"\n")),
        "{output:#?}"
    );
}

#[test]
fn the_process_may_have_options_in_a_file_without_a_service_that_uses_them() {
    let directory = Directory::new();
    let text = "[daemon]\ntls-user = 'nobody'\ntls-keylog = 'k'\n\
                [service.a]\nunix = 's'\ncommand = ['cat']\n";
    let file = directory.write("skd.toml", text);
    let output = Skd::new(["--check", "--config"]).arg(file).end();
    output.expect_code(0);
    assert_eq!(directory.names(), ["skd.toml"]);
}

/// Starts skd with TLS at a free port, with these files in a directory, and returns how that ends.
fn end(directory: &Directory, words: &[&str]) -> Output {
    Skd::new(["-t", "127.0.0.1:0"])
        .args(words)
        .arg("cat")
        .cwd(directory.path())
        .end()
}

/// The same, and `--check` says the same.
#[track_caller]
fn fails(directory: &Directory, words: &[&str], parts: &[&str]) {
    end(directory, words).expect_refusal(1, parts);
    let check = [&["--check"], words].concat();
    let output = end(directory, &check);
    output.expect_code(1).expect_stderr(parts);
}

#[test]
fn files_that_cannot_be_used_are_named_with_what_to_do() {
    let directory = Directory::new();
    for name in ["cert", "key", "open", "shared", "writable"] {
        directory.write(name, "");
    }
    for (name, mode) in [
        ("cert", 0o644),
        ("key", 0o600),
        ("open", 0o604),
        ("shared", 0o640),
        ("writable", 0o646),
    ] {
        directory.chmod(name, mode);
    }
    let here = directory.path().to_str().unwrap();
    for (words, parts) in [
        (
            &["--tls=none"][..],
            &["--tls: the certificate DIR/none can't be opened: No such file"][..],
        ),
        (
            &["--tls=cert:none"],
            &["--tls: the private key DIR/none can't be opened: No such file"],
        ),
        (
            &["--tls=no/cert:key"],
            &[
                "the certificate DIR/no/cert",
                "; the directory DIR/no doesn't exist",
            ],
        ),
        (&["--tls=cert:."], &["--tls: the private key DIR"]),
        (
            &["--tls=cert:/dev/null"],
            &[
                "the private key /dev/null isn't a regular file, so it can't be read again at SIGHUP",
            ],
        ),
        (
            &["--tls=cert:open"],
            &[
                "--tls: the private key DIR/open can be read by every user",
                "run chmod o= DIR/open, and replace the key",
            ],
        ),
        (
            &["--tls=cert"],
            &[
                "--tls: the certificate DIR/cert can be read by every user, and the private key is expected in it; name",
                "run chmod o= DIR/cert",
            ],
        ),
        (
            // As a certificate first.
            &["--tls=open:key", "--tls=cert:open"],
            &[
                "the certificate DIR/open can be read by every user, and the private key is expected in it",
            ],
        ),
        (
            &["--tls=writable:key"],
            &["the certificate DIR/writable can be written by every user; run chmod o-w"],
        ),
        (
            &["--tls=cert:key", "--tls-client-ca=writable"],
            &["--tls-client-ca: the certificates of authorities DIR/writable can be written by"],
        ),
        (
            &["--tls=cert:key", "--tls-client-ca=cert", "--tls-crl=none"],
            &["--tls-crl: the revocation list DIR/none can't be opened"],
        ),
        (
            &["--tls=cert:key", "--tls-ocsp=none"],
            &["--tls-ocsp: the OCSP response DIR/none can't be opened"],
        ),
        (
            &["--tls=cert:shared", "--tls-keylog=cert"],
            &[
                "--tls-keylog: the log of secrets DIR/cert can't be opened: other users can open it",
                "set its mode to 0600",
            ],
        ),
        (
            &["--tls=cert:shared", "--tls-keylog=no/log"],
            &["--tls-keylog: the log of secrets DIR/no/log can't be opened: No such file"],
        ),
    ] {
        let parts: Vec<_> = parts.iter().map(|part| part.replace("DIR", here)).collect();
        let parts: Vec<_> = parts.iter().map(String::as_str).collect();
        fails(&directory, words, &parts);
    }
}

#[test]
fn a_check_names_all_files_with_faults_and_makes_none() {
    let directory = Directory::new();
    directory.write("cert", "");
    let text = "[service.a]\nunix = 'a'\ntls = 'cert:none'\ncommand = ['cat']\n\
                [service.b]\nunix = 'b'\ntls = ['cert:none', 'other']\ncommand = ['cat']\n\
                [daemon]\ntls-keylog = 'log'\ntls-program = '/no/such/skd-tls'\n";
    let file = directory.write("skd.toml", text);
    let output = Skd::new(["--check", "--config"]).arg(&file).end();
    output.expect_code(1);
    let here = directory.path().display();
    let file = file.display();
    // Each file once, of the first service that has it.
    let expected = [
        format!(
            "skd: {file}:1:10: service a: --tls: the private key {here}/none can't be opened: "
        ),
        format!(
            "skd: {file}:5:10: service b: --tls: the certificate {here}/other can't be opened: "
        ),
        "skd: --tls-program /no/such/skd-tls: ".into(),
    ];
    let lines: Vec<_> = output.stderr.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{output:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(&expected), "{line} isn't {expected}");
    }
    assert_eq!(directory.names(), ["cert", "skd.toml"]);
}

#[test]
fn a_key_that_this_user_may_not_read_is_named_with_the_user() {
    requires_root();
    let directory = Directory::public();
    for (name, mode) in [("cert", 0o644), ("key", 0o600), ("shared", 0o640)] {
        directory.write(name, "");
        directory.chmod(name, mode);
    }
    chown(directory.join("shared"), None, Some(STRANGER)).unwrap();
    let as_stranger = |key: &str| {
        Skd::new(["-t", "127.0.0.1:0", "--tls"])
            .arg(format!("cert:{key}"))
            .args(["--tls-program", "/no/such", "cat"])
            .cwd(directory.path())
            .user(STRANGER, STRANGER, [])
            .end()
    };
    let path = directory.name("key");
    as_stranger("key").expect_refusal(
        1,
        &[
            &format!("the private key {path} can't be opened: Permission denied"),
            &format!("user id {STRANGER} has no right to it"),
        ],
    );
    // By its group it may; the next fault is another.
    as_stranger("shared").expect_refusal(1, &["--tls-program /no/such: "]);
}

#[test]
fn another_user_has_no_file_opened_that_it_cannot_open_itself() {
    requires_root();
    let directory = Directory::public();
    fs::create_dir(directory.join("theirs")).unwrap();
    chown(directory.join("theirs"), Some(STRANGER), Some(STRANGER)).unwrap();
    directory.write("secret", "");
    directory.chmod("secret", 0o600);
    let link = directory.join("theirs/key");
    symlink(directory.join("secret"), &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(STRANGER), Some(STRANGER)).unwrap();
    directory.write("cert", "");
    fails(
        &directory,
        &["--tls=cert:theirs/key"],
        &[
            "the private key ",
            "theirs/key can't be opened: ",
            "another user has chosen",
        ],
    );
    // A log of secrets is followed nowhere.
    let link = directory.join("theirs/log");
    symlink(directory.join("secret"), link).unwrap();
    fails(
        &directory,
        &["--tls=cert:secret", "--tls-keylog=theirs/log"],
        &["--tls-keylog: the log of secrets ", "can't be opened"],
    );
}

#[test]
fn only_root_has_skd_tls_become_a_user() {
    requires_root();
    let directory = Directory::public();
    let output = Skd::new(["-t", "127.0.0.1:0", "--tls=/x", "--tls-user=nobody", "cat"])
        .cwd(directory.path())
        .user(STRANGER, STRANGER, [])
        .end();
    output.expect_refusal(
        1,
        &["--tls-user: can't become nobody: Operation not permitted; that needs root"],
    );
}

#[test]
fn a_program_that_is_missing_is_told_where_it_was_looked_for() {
    let directory = Directory::new();
    directory.write("key", "");
    directory.chmod("key", 0o600);
    let skd = env!("CARGO_BIN_EXE_skd");
    let copy = directory.join("skd");
    fs::copy(skd, &copy).unwrap();
    for check in [&["--check"][..], &[]] {
        let output = Skd::new(["-t", "127.0.0.1:0", "--tls", "key"])
            .args(check)
            .arg("/bin/cat")
            .binary(&copy)
            .env("PATH", "/nonexistent:relative")
            .cwd(directory.path())
            .end();
        let here = directory.path().display();
        output.expect_code(1).expect_stderr(&[
            &format!("--tls needs skd-tls, which is neither in {here}, beside skd, nor in a directory of PATH"),
            "install it",
            "--tls-program",
        ]);
    }
}

/// Builds skd-tls, if need be, where skd finds it.
fn with_program() -> Pki {
    skd_tls();
    Pki::with_server()
}

/// A check of a service with TLS.
fn check(words: &[&str]) -> Output {
    Skd::new(["--check", "-t", "127.0.0.1:0"])
        .args(words)
        .arg("cat")
        .end()
}

#[test]
fn a_check_of_good_files_is_silent() {
    let pki = with_program();
    pki.sign("client", Leaf::default());
    pki.revoke(&["client"]);
    // With what leads to the authority.
    let chain = [pki.path("server.pem"), pki.path("ca.pem")].map(|it| fs::read(it).unwrap());
    fs::write(pki.path("chain.pem"), chain.concat()).unwrap();
    let certificate = format!("{}:{}", pki.name("chain.pem"), pki.name("server.key"));
    let (ca, crl) = (pki.name("ca.pem"), pki.name("crl.pem"));
    for more in [
        &[][..],
        &[
            "--tls-strict-sni",
            "--tls-min=1.3",
            "--tls-alpn=h2,http/1.1",
        ],
        &["--tls-client-ca", &ca, "--tls-crl", &crl],
        &["--tls-client-ca", &ca, "--tls-client=optional"],
    ] {
        let output = check(&[&["--tls", &certificate], more].concat());
        output.expect_code(0);
        assert_eq!(
            (output.stdout.as_str(), output.stderr.as_str()),
            ("", ""),
            "{more:?}"
        );
    }
    let log = pki.path("keys.log");
    let keylog = ["--tls-keylog", log.to_str().unwrap()];
    check(&[&["--tls", &certificate], &keylog[..]].concat()).expect_code(0);
    assert!(!log.exists());
}

#[test]
fn a_check_says_all_that_skd_tls_says_of_bad_files_and_a_start_the_first() {
    let pki = with_program();
    pki.sign("other", Leaf::default());
    let wrong = format!("{}:{}", pki.name("server.pem"), pki.name("other.key"));
    let mismatch = "the private key doesn't belong to the certificate of CN=server";
    // On a command line without the name of the service.
    let fault = format!("skd: --tls {wrong}: {mismatch}\n");
    let output = check(&["--tls", &wrong]);
    output.expect_code(1);
    assert_eq!(output.stderr, fault);
    let start = Skd::new(["-t", "127.0.0.1:0", "--tls", &wrong, "cat"]).end();
    start.expect_code(1);
    assert_eq!(start.stderr, fault);

    let text = format!(
        "[service.a]\nunix = 'a'\ntls = '{wrong}'\ncommand = ['cat']\n\
         [service.b]\nunix = 'b'\ntls = '{}'\ntls-client-ca = '{}'\ncommand = ['cat']\n",
        pki.option("server"),
        pki.name("ca.key"),
    );
    fs::write(pki.path("skd.toml"), text).unwrap();
    let skd = |words: &[&str]| {
        let skd = Skd::new(["--config", "skd.toml"]).args(words);
        skd.cwd(pki.directory()).end()
    };
    let first = format!("skd: skd.toml:1:10: service a: --tls {wrong}: {mismatch}");
    let second = format!(
        "skd: skd.toml:5:10: service b: --tls-client-ca {}: there is no certificate in it",
        pki.name("ca.key")
    );
    let output = skd(&["--check"]);
    output.expect_code(1);
    let lines: Vec<_> = output.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{output:#?}");
    assert_eq!(lines[0], first);
    assert!(lines[1].starts_with(&second), "{output:#?}");
    let start = skd(&[]);
    start.expect_code(1);
    assert_eq!(start.stderr, format!("{first}\n"));
    assert!(!pki.path("a").exists() && !pki.path("b").exists());
}

#[test]
fn a_check_notes_what_clients_would_dislike() {
    let pki = with_program();
    pki.sign("nameless", Leaf::default());
    pki.sign(
        "expired",
        Leaf {
            names: "DNS:localhost",
            is_expired: true,
            ..Leaf::default()
        },
    );
    for (name, words) in [
        ("nameless", "it has no subjectAltName: clients refuse it"),
        ("expired", "it has ended on 2020-01-02, "),
    ] {
        let output = check(&["--tls", &pki.option(name)]);
        output.expect_code(0);
        let file = pki.name(&format!("{name}.pem"));
        output.expect_stderr(&[&format!("skd: note: {file}: "), words]);
    }
}

#[test]
fn a_program_that_is_no_skd_tls_fails_a_check() {
    let pki = Pki::with_server();
    for (program, words) in [
        (
            "/bin/false",
            "skd-tls can't be tried: it has ended without an answer",
        ),
        (
            "/bin/cat",
            "skd-tls can't be tried: /bin/cat: unrecognized option '--check'",
        ),
        (
            "/etc/passwd",
            "--tls-program /etc/passwd: Permission denied",
        ),
        ("/", "--tls-program /: "),
    ] {
        let output = check(&["--tls", &pki.option("server"), "--tls-program", program]);
        output.expect_code(1).expect_stderr(&[words]);
        assert_eq!(output.stderr.lines().count(), 1, "{output:#?}");
    }
}

#[test]
fn handlers_that_could_end_skd_tls_are_noted() {
    requires_root();
    let pki = with_program();
    let tls = ["--tls", &pki.option("server"), "--tls-user", "daemon"];
    let noted = "skd: note: skd-tls has the user of the handlers of cat, who can end it";
    for (user, is_noted) in [("daemon", true), ("nobody", false)] {
        let output = check(&[&tls[..], &["--user", user]].concat());
        output.expect_code(0);
        assert_eq!(output.stderr.contains(noted), is_noted, "{output:#?}");
    }
    // In a sandbox they don't see it.
    let sandbox = ["--user", "daemon", "--sandbox"];
    let output = check(&[&tls[..], &sandbox].concat());
    assert!(!output.stderr.contains(noted), "{output:#?}");
}
