//! The task definition that is derived from a base for a job's containers, and the names of their
//! images. Without I/O.

mod derive;
mod image;

pub(crate) use derive::{BASE_TAG, family_prefix};
pub use derive::{Derivation, Unsuitable};
#[cfg(feature = "telemetry")]
pub(crate) use image::image_parts;
pub(crate) use image::{ImageName, is_host_name};
