//! The measured servers and their commands.

use super::{SERVERS, Section};
use crate::report::format::NOTHING;
use crate::report::table::{Align, Table};
use crate::results::Results;

pub(super) fn servers(results: &Results) -> Section {
    let columns =
        ["server", "version", "socket", "command", "remark"].map(|name| (name, Align::Left));
    let mut table = Table::new("Servers", &columns).into_detail();
    for server in &results.servers {
        for (transport, command) in &server.commands {
            table.row([
                server.name.clone(),
                server.version.clone().unwrap_or_else(|| NOTHING.to_owned()),
                transport.to_string(),
                format!("`{command}`"),
                server.remark.clone(),
            ]);
        }
    }
    Section {
        title: SERVERS,
        text: "All servers run with raised limits, with their longest backlog, and without look-ups \
               and logging.",
        tables: vec![table],
        plots: "servers",
    }
}
