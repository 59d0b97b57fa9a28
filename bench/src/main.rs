//! Benchmarks of the Ouro proxy.
fn main() {}
