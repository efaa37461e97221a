//! What an upgrade and a reload keep: the socket, its clients, and what they are owed.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use skd_control::Request;

use super::client::{Client, State, Watch};
use super::filter::Filter;
use super::permissions::{Access, Permissions};
use crate::net::{SavedFile, SavedListener};
use crate::sys::descriptors::SavedDescriptors;

/// The control socket as it is saved for the next binary.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedControl {
    pub(super) listener: SavedListener,
    pub(super) file: Option<SavedFile>,
    pub(super) permissions: Permissions,
    /// The number of the next client.
    pub(super) next: u64,
    /// None in the state of a preflight.
    pub(super) clients: Vec<SavedClient>,
}

/// A client as it is saved.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedClient {
    pub(super) connection: u64,
    pub(super) socket: i32,
    pub(super) access: Access,
    #[serde(with = "bytes")]
    input: Vec<u8>,
    #[serde(with = "bytes")]
    output: Vec<u8>,
    awaits: Option<u64>,
    /// What it awaits, if the main thread hasn't seen that.
    pub(super) unsent: Option<Request>,
    watch: Option<SavedWatch>,
    has_ended: bool,
    closes: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedWatch {
    id: u64,
    filter: Filter,
    lost: u64,
}

impl SavedClient {
    /// Saves a client, unless its descriptor can't be passed on: it is closed at the exec.
    pub(super) fn save(
        client: &Client,
        unsent: Option<Request>,
        to: &mut SavedDescriptors,
    ) -> Option<Self> {
        let state = &client.state;
        Some(Self {
            connection: client.connection,
            socket: to.pass(&client.socket).ok()?,
            access: client.access,
            input: state.input.clone(),
            output: state.output.clone(),
            awaits: state.awaits,
            unsent,
            watch: state.watch.as_ref().map(|watch| SavedWatch {
                id: watch.id,
                filter: watch.filter.clone(),
                lost: watch.lost,
            }),
            has_ended: state.has_ended,
            closes: state.closes,
        })
    }

    /// Returns where it has got to, and what the main thread has yet to be sent.
    pub(super) fn restore(self) -> State {
        State {
            input: self.input,
            output: self.output,
            awaits: self.awaits,
            watch: self.watch.map(|watch| Watch {
                id: watch.id,
                filter: watch.filter,
                lost: watch.lost,
            }),
            has_ended: self.has_ended,
            closes: self.closes,
        }
    }
}

/// Bytes that are mostly text, as a string: each is the character of its number. As a list of numbers,
/// megabytes of answers would be four times as long.
mod bytes {
    use super::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
        to.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let bytes: Result<_, _> = text.chars().map(u8::try_from).collect();
        bytes.map_err(|_| de::Error::custom("a character is no byte"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Saved(#[serde(with = "bytes")] Vec<u8>);

    #[test]
    fn any_bytes_are_restored() {
        let saved = Saved((0..=255).collect());
        let text = serde_json::to_string(&saved).unwrap();
        assert_eq!(serde_json::from_str::<Saved>(&text).unwrap(), saved);
        assert!(serde_json::from_str::<Saved>("\"\u{100}\"").is_err());
    }
}
