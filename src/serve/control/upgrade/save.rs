//! Writing down the state: each module saves its part.

use std::io::{self, Write};
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::state::{
    FORMAT, OpenDescriptors, SavedIdentity, SavedProcess, SavedService, State, Written,
};
use crate::config::ServiceId;
use crate::net::{Listener, SocketFile};
use crate::serve::control::build::ServiceControl;
use crate::serve::control::daemon::Daemon;
use crate::serve::control::saved_rules::SavedServiceRules;
use crate::serve::service::Service;
use crate::serve::wait_mode::WaitSocket;
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::process;

impl Daemon {
    /// Writes down what the next binary needs to know. It gets open connections only if it is to go
    /// on with them.
    pub(in crate::serve) fn write_state(
        &self,
        next: &OwnedFd,
        connections: bool,
    ) -> io::Result<Written> {
        let mut file = descriptors::memory_file()?;
        let mut to = SavedDescriptors::default();
        let memory = to.pass(&file)?;
        let Some(executable) = &self.origin.executable else {
            return Err(Errno::ENOENT.into());
        };
        let pidfile = self.origin.pidfile.as_ref();
        let services = self.save_services(connections, &mut to)?;
        let lingering = if connections {
            self.shared.handlers.save_lingering(&mut to)
        } else {
            Vec::new()
        };
        let files = self.origin.files;
        let mut state = State {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            process: SavedProcess {
                hangup_ends: self.origin.hangup_ends,
                acceptors: self.acceptors,
                files: files.map(|limit| (limit.rlim_cur, limit.rlim_max)),
                dumpable: process::is_dumpable(),
            },
            identity: self.origin.identity.as_ref().map(SavedIdentity::save),
            executable: executable.save(&mut to)?,
            pidfile: pidfile.map(|pidfile| pidfile.save(&mut to)).transpose()?,
            log: self.log.save(&mut to)?,
            manager: self.status.save(&mut to)?,
            services,
            lingering,
            served: self.shared.handlers.table.counts().1,
            open: OpenDescriptors {
                memory,
                old: to.pass(executable.running())?,
                // An interpreter couldn't open one that is closed at its exec: so no script gets
                // far.
                new: to.pass_copy(next)?,
                null: to.pass(self.spawner.null())?,
                all: Vec::new(),
            },
        };
        state.open.all = to.numbers().to_vec();
        let text = serde_json::to_vec(&state)?;
        file.write_all(&text)?;
        Ok(Written {
            memory,
            carried: to,
            file,
            length: text.len() as u64,
        })
    }

    fn save_services(
        &self,
        connections: bool,
        to: &mut SavedDescriptors,
    ) -> Result<Vec<SavedService>, Errno> {
        let mut saved = Vec::new();
        for (index, control) in self.services.iter().enumerate() {
            let id = ServiceId::new(index);
            let configured = self.shared.services.get(index);
            let service = self.save_service((id, control), configured, connections, to)?;
            // One that isn't configured any more lasts as long as its handlers.
            if configured.is_some() || !service.handlers.is_empty() {
                saved.push(service);
            }
        }
        Ok(saved)
    }

    fn save_service(
        &self,
        (id, control): (ServiceId, &ServiceControl),
        configured: Option<&Service>,
        connections: bool,
        to: &mut SavedDescriptors,
    ) -> Result<SavedService, Errno> {
        let wait_sockets = self.wait_sockets.iter();
        let wait_sockets = wait_sockets.filter(|socket| socket.service() == id);
        let listeners = configured
            .iter()
            .flat_map(|service| service.listeners.iter().chain(&service.datagrams))
            .chain(wait_sockets.map(WaitSocket::listener))
            .map(|listener| listener.save(to))
            .collect::<Result<_, _>>()?;
        let save_file = |file: &SocketFile| file.save(to);
        let files = control.files.iter().map(save_file);
        let files = files.collect::<Result<_, _>>()?;
        let rules = configured.map(|service| {
            let files = control.rule_files.as_ref();
            SavedServiceRules::save(service, files, to)
        });
        let wait_address = |index: usize| {
            let socket = self.wait_sockets.get(index);
            socket.map(WaitSocket::listener).map(Listener::address)
        };
        let handlers = &self.shared.handlers;
        let mut service = SavedService {
            name: control.name.clone(),
            limits: control.limits,
            drain: control.drain,
            datagram_workers: control.datagram_workers,
            listeners,
            files,
            rules: rules.transpose()?.flatten(),
            handlers: handlers.save(id, connections, wait_address, to),
            pending: Vec::new(),
            exchanges: Vec::new(),
        };
        if connections {
            service.pending = self.shared.save_pending(id, to);
            service.exchanges = self.shared.save_exchanges(id, to);
        }
        Ok(service)
    }
}
