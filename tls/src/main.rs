//! TLS for skd, in a process of its own.

fn main() -> std::process::ExitCode {
    skd_tls::run(std::env::args_os())
}
