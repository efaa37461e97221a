//! Connections a second and latency, by handler, clients and kind of socket.

use anyhow::Result;

use super::Bench;
use crate::handlers::Handler;
use crate::options::Group;
use crate::results::StreamKey;

pub(super) fn round(bench: &mut Bench, round: u32) -> Result<()> {
    let handlers: Vec<Handler> = bench.handlers.answering().cloned().collect();
    for transport in bench.settings.transports.clone() {
        let peers = bench.turns(round, |peer| {
            peer.recipes.contains_key(&transport) && peer.takes_part(Group::Rates)
        });
        for handler in &handlers {
            for clients in bench.settings.clients.clone() {
                for peer in &peers {
                    bench.step(
                        round,
                        &format!(
                            "{transport}, {}, {clients} clients: {}",
                            handler.name, peer.name
                        ),
                    );
                    let Some(server) = bench.start(peer, transport, handler) else {
                        continue;
                    };
                    let key = StreamKey {
                        server: peer.name.clone(),
                        transport,
                        handler: handler.name.to_owned(),
                        clients,
                        live: 0,
                    };
                    bench.measure_stream(round, peer, &server, handler, key, |samples| {
                        &mut samples.rates
                    })?;
                }
            }
        }
    }
    Ok(())
}
