//! Several skd behind a load balancer, with the files of contrib/scale-out and the commands of docs/scale-out.md: one is
//! killed, drained, upgraded or reloaded under load. Tests print rows of the table there (`--nocapture`).

mod docs;
mod farm;
mod haproxy;
mod load;
mod nftables;

use self::farm::{FILES, Farm, NAMES, SERVICE};
use self::load::{Client, LOADING, by_machine, lost};
use crate::harness::wait_until;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

/// An announcement that is several intervals of checks long here.
const ANNOUNCE: &str = "4s";

/// Runs the script of the page, which has to name each machine, and its drain. Instead of ssh it uses nsenter, and instead of systemctl
/// the service manager of [`Farm`].
#[track_caller]
fn rolling_restart(farm: &Farm) {
    let restart = "pid=$(cat /run/skd.pid); kill $pid; tail --pid=$pid --follow /dev/null";
    let output = Command::new(format!("{FILES}/rolling-restart"))
        .arg(SERVICE)
        .args(NAMES)
        .env("RSH", farm.remote_shell())
        .env("RESTART", restart)
        .env("ANNOUNCE", ANNOUNCE)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let drained = "greeter is drained: it has no handler, and new clients wait\n";
    assert_eq!(
        said,
        NAMES.map(|name| format!("{name}\n{drained}")).concat()
    );
}

/// Asserts that all were answered, and prints a row of the table of the page.
#[track_caller]
fn expect_all_answered(what: &str, clients: &[Client]) {
    let lost = lost(clients);
    assert!(lost.is_empty(), "{what}: {lost:#?}");
    assert!(clients.len() > 20, "{what}: {} clients", clients.len());
    let answered = clients.len();
    println!(
        "{what}: {answered} answered, 0 lost; {:?}",
        by_machine(clients)
    );
}

/// Asserts that no client was lost that came after this, and of those before not more than there were at once; prints
/// a row of the table of the page.
#[track_caller]
fn expect_lost(what: &str, clients: &[Client], after: Instant) {
    let lost = lost(clients);
    for client in &lost {
        assert!(client.begun <= after, "{what}: {client:?}");
    }
    assert!(lost.len() <= LOADING.count(), "{what}: {lost:#?}");
    let answered = clients.len() - lost.len();
    let lost = lost.len();
    println!(
        "{what}: {answered} answered, {lost} lost; {:?}",
        by_machine(clients)
    );
}

/// Asserts that each log has the real addresses of the clients that its machine has served, and no others.
#[track_caller]
fn expect_logged(farm: &Farm, clients: &[Client]) {
    for backend in &farm.machines {
        let served = clients.iter();
        let served = served.filter(|it| it.outcome.as_deref() == Ok(backend.name));
        let served: BTreeSet<_> = served.map(|it| it.own).collect();
        wait_until("the log has all clients", || {
            backend.accepted().len() >= served.len()
        });
        assert_eq!(backend.accepted(), served, "{}", backend.name);
    }
}
