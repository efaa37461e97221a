//! Who may come in. So far: as many as there are places.

mod places;

pub(super) use places::{Place, Places, When};
