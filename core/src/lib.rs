//! Ouro: a reverse proxy whose process can be replaced while its connections live on.
//!
//! `docs/architecture.md` has the map; the modules below are listed from top to bottom, and an arrow between them
//! may only point down (checked by `core/tests/tidy.rs`).

pub mod base;
pub mod config;
pub mod h1;
pub mod proxy;
pub mod ring;
pub mod route;
pub mod upstream;
