//! End-to-end tests: the proxy as a process, seen from outside through real sockets with exact bytes.
//!
//! One module per subject; the harness is in [`support`].

// Helpers of tests may panic as tests do, and the numbers they cast are small.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]

mod admin;
mod admin_dashboard;
mod admin_fake;
mod bodies;
mod counters;
mod fields;
mod harness;
mod http1;
mod limits;
mod pool;
mod process;
mod responses;
mod routing;
mod strictness;
mod support;
mod tcp;
mod upgrade;
