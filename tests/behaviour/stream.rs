//! Stream sockets: a program for each connection.

use crate::harness::{
    Directory, Program, Skd, connect_unix, descriptors, each_program, receive, run_to_end, talk,
};
use std::io::Write;

#[test]
fn answers_a_tcp_connection() {
    each_program(|program| {
        let skd = program.skd(["-t", "127.0.0.1:0"]).run("cat");
        assert_eq!(talk(skd.connect(), b"hello\n"), b"hello\n");
    });
}

#[test]
fn answers_a_unix_connection() {
    each_program(|program| {
        let directory = Directory::new();
        let skd = program.skd(["-l", &directory.name("socket")]).run("cat");
        assert_eq!(talk(skd.connect_unix(), b"hello\n"), b"hello\n");
    });
}

#[test]
fn serves_several_listeners() {
    let directory = Directory::new();
    let skd = Skd::new(["-t", "127.0.0.1:0", "-t", "127.0.0.1:0", "-l"])
        .arg(directory.join("socket"))
        .run("cat");
    for address in skd.addresses() {
        assert_eq!(talk(skd.connect_to(address), b"tcp"), b"tcp");
    }
    assert_eq!(
        talk(connect_unix(directory.join("socket")), b"unix"),
        b"unix"
    );
}

#[test]
fn tells_the_handler_who_calls() {
    each_program(|program| {
        let say = "echo $PROTO $TCPLOCALIP $TCPLOCALPORT $TCPREMOTEIP $TCPREMOTEPORT";
        let skd = program
            .skd(["-t", "127.0.0.1:0"])
            .run_with("sh", ["-c", say]);
        let stream = skd.connect();
        let (ours, theirs) = (stream.local_addr().unwrap(), skd.address());
        let expected = format!(
            "TCP 127.0.0.1 {} 127.0.0.1 {}\n",
            theirs.port(),
            ours.port()
        );
        assert_eq!(String::from_utf8_lossy(&talk(stream, b"")), expected);
    });
}

#[test]
fn reports_connections() {
    each_program(|program| {
        let skd = program.skd(["-vt", "127.0.0.1:0"]).run("cat");
        let stream = skd.connect();
        let caller = format!(
            "connection from [127.0.0.1]:{}",
            stream.local_addr().unwrap().port()
        );
        talk(stream, b"");
        skd.wait_for_log(&format!("Accepted {caller}"));
        if program.is_ours() {
            let line = skd.wait_for_log(&format!("Closed {caller}: pid "));
            assert!(line.contains(" exited with status 0 after "), "{line}");
        }
    });
}

#[test]
fn leaves_the_handler_its_connection_alone() {
    each_program(|program| {
        let skd = program.skd(["-t", "127.0.0.1:0"]).run("cat");
        let mut stream = skd.connect();
        // Its answer shows that it has been exec'd.
        stream.write_all(b".").unwrap();
        receive(&mut stream, 1);
        let handler = skd.wait_for_children(1)[0];
        let open: Vec<i32> = descriptors(handler).into_keys().collect();
        match program {
            Program::Ours => assert_eq!(open, [0, 1, 2]),
            // It leaks the listening socket.
            Program::Original => assert_eq!(open, [0, 1, 2, 3]),
        }
    });
}

#[test]
fn keeps_to_the_greatest_number_of_clients() {
    each_program(|program| {
        let skd = program.skd(["-c", "1", "-t", "127.0.0.1:0"]).run("cat");
        let mut first = skd.connect();
        first.write_all(b"1").unwrap();
        assert_eq!(receive(&mut first, 1), b"1");
        let handler = skd.wait_for_children(1)[0];
        // Waits in the backlog until the first is gone.
        let mut second = skd.connect();
        second.write_all(b"2").unwrap();
        first.write_all(b"1").unwrap();
        assert_eq!(receive(&mut first, 1), b"1");
        assert_eq!(skd.children(), [handler]);
        talk(first, b"");
        assert_eq!(talk(second, b"2"), b"22");
    });
}

#[test]
fn refuses_a_limit_that_is_no_number() {
    run_to_end(["-t", "127.0.0.1:0", "-c", "many", "cat"])
        .expect_code(2)
        .expect_stderr(&["many"]);
}
