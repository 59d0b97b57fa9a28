//! Tables of cases: all of them run, all failures are told.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `check` for each case and fails with the names and reasons of those that failed.
#[track_caller]
pub(crate) fn cases<N: AsRef<str>, T>(table: impl IntoIterator<Item = (N, T)>, mut check: impl FnMut(T)) {
    let mut failures = Vec::new();
    let mut count = 0;
    for (name, case) in table {
        count += 1;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(case))) {
            failures.push(format!("- {}: {}", name.as_ref(), panic_text(panic.as_ref())));
        }
    }
    assert!(failures.is_empty(), "{} of {count} cases failed:\n{}", failures.len(), failures.join("\n"));
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
