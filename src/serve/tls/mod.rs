//! skd-tls, as the daemon sees it: the channel by which workers hand connections over, and what is known
//! of those that were.

mod client_token;
mod link;
mod of_service;
mod session;

pub(in crate::serve) use link::TlsLink;
pub(in crate::serve) use of_service::TlsService;
pub(in crate::serve) use session::{SavedSession, TlsSession, TlsSign};
