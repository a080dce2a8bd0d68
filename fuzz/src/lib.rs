//! What the fuzz targets share: a plain model of a ledger, and arbitrary programs for both.

pub mod input;
pub mod model;
