//! skd: binds sockets and runs a program for each connection.

fn main() -> std::process::ExitCode {
    skd::start::main()
}
