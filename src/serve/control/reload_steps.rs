//! A reload at SIGHUP, step by step, and the end that the service manager is told.

use std::sync::Arc;

use super::daemon::Daemon;
use super::reload::Again;
use super::tls::TlsKeeper;
use super::upgrade::preflight::Preflight;
use super::upgrade::words::Purpose;
use crate::setup::executable::Executable;

impl Daemon {
    /// Reads rules or files again if that was asked for meanwhile, or of an earlier binary.
    pub(in crate::serve) fn read_if_asked(&mut self) {
        if self.reload.take_again() {
            match self.reads_files() {
                true => self.begin_reload(),
                false => drop(self.read_again()),
            }
        }
        self.ready_if_reloaded();
    }

    /// Returns whether services come from files that this process sees.
    pub(in crate::serve) fn reads_files(&self) -> bool {
        let in_root = self.origin.executable.as_ref();
        self.origin.texts.is_some() && !in_root.is_some_and(Executable::is_in_root)
    }

    /// Begins to read the files of rules of all services again, and those of TLS. Returns whether there are
    /// any. What was read before stays where something is wrong with the new.
    ///
    /// Clients that have been let in stay, whatever the new rules say.
    pub(in crate::serve) fn read_again(&mut self) -> bool {
        let mut rules = Vec::new();
        for (served, control) in self.shared.services.iter().zip(&self.services) {
            let of_service = control.rule_files.as_ref().filter(|it| it.can_change());
            if let (Some(_), Some(of_service)) = (&served.rules, of_service) {
                rules.push((served.id, Arc::clone(of_service)));
            }
        }
        let tls = self.tls.as_ref().and_then(TlsKeeper::files);
        if rules.is_empty() && tls.is_none() {
            return false;
        }
        // At the end of skd it is of no use any more.
        let tls = tls.filter(|_| self.drain.is_none());
        if self.is_loading_tls() {
            self.reload.ask_again();
        } else {
            self.reload.begin(Again { rules, tls }, &self.shared);
        }
        true
    }

    /// Tells the service manager that all is as before HUP, if it is, and the client that waits for
    /// that.
    pub(in crate::serve) fn ready_if_reloaded(&mut self) {
        let reloads = |preflight: &Preflight| preflight.purpose == Purpose::Reload;
        let files = self.reload_again || self.preflight.as_ref().is_some_and(reloads);
        let reads = self.reload.is_under_way() || self.is_loading_tls();
        if self.reopening == 0 && !reads && !files {
            self.status.ready(&self.shared);
            self.end_reload();
        }
    }

    /// Looks whether rules have been read, and files of TLS were opened.
    pub(in crate::serve) fn look_at_reload(&mut self) {
        if self.reload.take_end() {
            if let Some(opened) = self.reload.take_opened() {
                self.load_tls(opened);
            }
            if !self.is_loading_tls() {
                self.read_if_asked();
            }
        }
    }
}
