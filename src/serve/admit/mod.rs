//! Who may come in: as many as there are places, in all and for each source, and no faster than
//! is allowed; and which lines are said about the others.

mod places;
#[allow(dead_code)]
mod rates;
#[allow(dead_code)]
mod refusals;
#[allow(dead_code)]
mod sources;

pub(super) use places::{Place, Places, When};
#[allow(unused_imports)]
pub(super) use rates::{Bucket, Clock};
#[allow(unused_imports)]
pub(super) use refusals::{Refusals, Say};
#[allow(unused_imports)]
pub(super) use sources::{Limits, Over, Seat, Source, Sources};
