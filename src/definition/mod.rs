//! What a job asks of its task, what of that the administrator grants, and the task definition that
//! is derived from the base for it. All of it is without I/O.

mod derive;
mod grant;
mod image;
mod size;

pub(crate) use derive::{BASE_TAG, family_prefix};
pub use derive::{Derivation, Unsuitable};
pub(crate) use grant::shared_volume;
pub use grant::{ContainerEnvironment, Granted, Refusal, Requests, Sizing, grant};
#[cfg(feature = "telemetry")]
pub(crate) use image::image_parts;
