//! Hot restarts with real processes: nothing is refused, lost or counted wrong, whoever fails at whatever step.
//!
//! [`instance`] starts processes, [`site`] is the instance that most tests are about, [`load`] are strict clients that write down every failure, [`fake`] speaks the restart
//! protocol for a process that is not there. The rest is one module per subject.
//!
//! The runs that take minutes are ignored tests, one command each; `OURO_TEST_PERCENT=5` makes a short one:
//! `cargo test --release -p ouro --test restart -- --include-ignored --nocapture --test-threads 1 NAME`, with as the name
//! `two_hundred_restarts`, `five_hundred_restarts`, `a_thousand_listeners`, `taking_over_ten_listeners` or
//! `a_child_that_hangs_after_the_state`. They print what they have found between two lines of dashes.

// Helpers of tests may panic as tests do, and the numbers they cast are small.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)]

mod chains;
mod children;
mod containers;
mod drain;
mod fake;
mod generations;
mod instance;
mod kills;
mod listeners;
mod load;
mod operators;
mod parents;
mod refusals;
mod site;
mod steady;
mod totals;
mod wakeups;
mod wrk;
// Shared with the end-to-end tests; not everything of it is needed here.
#[path = "../e2e/support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;
