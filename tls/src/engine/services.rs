//! The services as threads need them.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::ServerConfig;

use super::figures::{Counters, Figures};
use super::server_name;
use crate::load::{Service, Services};

/// The services that hold.
#[derive(Debug, Default)]
pub(super) struct Table {
    by_name: HashMap<Box<str>, Served>,
}

/// A service.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) service: Arc<Service>,
    /// Its settings, with which names are noted.
    pub(super) config: Arc<ServerConfig>,
    pub(super) counters: Arc<Counters>,
}

impl Table {
    /// A table of these services.
    pub(super) fn new(services: &Services, figures: &Figures) -> Self {
        let entry = |service: &Arc<Service>| {
            let served = Served {
                service: Arc::clone(service),
                config: server_name::noting(&service.config),
                counters: figures.of(&service.name),
            };
            (service.name.clone(), served)
        };
        Self {
            by_name: services.iter().map(entry).collect(),
        }
    }

    /// Returns the service with this name.
    pub(super) fn get(&self, name: &str) -> Option<&Served> {
        self.by_name.get(name)
    }
}
