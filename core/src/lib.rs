//! Ouro: a reverse proxy whose process can be replaced while its connections live on.
//!
//! `docs/architecture.md` has the map; the modules below are listed from top to bottom, and an arrow between them
//! may only point down (checked by `core/tests/tidy.rs`).

pub mod base;
pub mod cli;
pub mod config;
pub mod route;
