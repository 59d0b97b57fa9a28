//! Connections move to the next process at whatever moment, and nobody can tell.
//!
//! [`chain`] restarts an instance again and again; its [`chain::End`]s are the two peers of a proxied connection, driven
//! from one thread, so that each test knows exactly what state a connection is in.

// Helpers of tests may panic as tests do, and the numbers they cast are small.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]

mod chain;
mod changes;
mod failures;
mod http1;
mod moments;
mod seeded;
mod seeded_http;
mod stays;
mod tcp;

// Shared with the other tests of processes; not everything of them is needed here.
#[path = "../restart/fake.rs"]
#[allow(dead_code)]
mod fake;
#[path = "../restart/instance.rs"]
#[allow(dead_code)]
mod instance;
#[path = "../e2e/support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;
