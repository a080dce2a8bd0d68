//! What the fuzz targets share: a plain model of a ledger, arbitrary programs for both, and data directories.

pub mod directory;
pub mod input;
pub mod model;
