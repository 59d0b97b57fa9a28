//! Restarts as an operator has them: by signal, by command, by service manager and by wrapper script.

// Helpers of tests may panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]

mod command;
mod instance;
mod sighup;
// Shared with the end-to-end tests, which use all of it.
#[allow(dead_code, unused_imports)]
#[path = "../e2e/support/mod.rs"]
mod support;
mod systemd;
mod wrapper;
