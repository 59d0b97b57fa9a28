//! Ouro: a reverse proxy whose process can be replaced while its connections live on.
//!
//! `docs/architecture.md` has the map; the modules below are listed from top to bottom, and an arrow between them
//! may only point down (checked by `core/tests/tidy.rs`).

pub mod cli;
pub mod server;

pub mod control;
pub mod worker;

pub mod proxy;
pub mod upstream;

pub mod route;

pub mod config;
pub mod h1;
pub mod ring;
pub mod stats;

pub mod base;
