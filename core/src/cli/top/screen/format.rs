//! Numbers for narrow columns: at most five characters, six for what takes minutes.

/// A rate: one decimal below 10, then whole, then with a letter for thousands and more.
pub(super) fn rate(number: f64) -> String {
    if number <= 0.0 {
        "0".to_owned()
    } else if number < 9.95 {
        format!("{number:.1}")
    } else {
        scaled(number, 1000.0, &["", "k", "M", "G", "T", "P"])
    }
}

/// Bytes, in powers of 1024.
pub(super) fn bytes(number: f64) -> String {
    if number <= 0.0 { "0".to_owned() } else { scaled(number, 1024.0, &["B", "K", "M", "G", "T", "P"]) }
}

/// A number of things.
#[allow(clippy::cast_precision_loss)] // shown with three digits
pub(super) fn whole(number: u64) -> String {
    if number < 100_000 { number.to_string() } else { rate(number as f64) }
}

/// Milliseconds with three significant digits; a dash for nothing.
pub(super) fn milliseconds(number: Option<f64>) -> String {
    match number {
        None => "-".to_owned(),
        Some(number) if number < 0.9995 => format!("{number:.3}"),
        Some(number) if number < 9.995 => format!("{number:.2}"),
        Some(number) if number < 99.95 => format!("{number:.1}"),
        Some(number) if number < 99_999.5 => format!("{number:.0}"),
        Some(number) => format!("{:.0}s", number / 1000.0),
    }
}

/// Milliseconds as days, hours, minutes and seconds.
pub(super) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, hours, minutes, seconds) =
        (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}m {seconds:02}s"),
        (0, _) => format!("{hours}h {minutes:02}m {seconds:02}s"),
        _ => format!("{days}d {hours:02}h {minutes:02}m"),
    }
}

fn scaled(number: f64, step: f64, letters: &[&str]) -> String {
    let (mut number, mut n) = (number, 0);
    // What would be rounded up to four digits and more; five are allowed without a letter.
    let limit = |n: usize| if n == 0 && step < 1001.0 { 9999.5 } else { 999.5 };
    while number >= limit(n) && n + 1 < letters.len() {
        number /= step;
        n += 1;
    }
    let decimals = if n > 0 && number < 9.995 { 2 } else { usize::from(n > 0 && number < 99.95) };
    format!("{number:.decimals$}{}", letters[n])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_keep_to_their_columns() {
        for (number, text) in [
            (0.0, "0"),
            (0.25, "0.2"),
            (9.94, "9.9"),
            (9.96, "10"),
            (1234.4, "1234"),
            (9999.0, "9999"),
            (12_345.0, "12.3k"),
            (123_456.0, "123k"),
            (999_600.0, "1.00M"),
            (1e300, "9"),
        ] {
            let shown = rate(number);
            assert!(shown == text || number > 1e18, "{number}: {shown}");
        }
    }

    #[test]
    fn bytes_are_in_powers_of_1024() {
        for (number, text) in
            [(0.0, "0"), (100.0, "100B"), (1023.0, "1.00K"), (10_240.0, "10.0K"), (1_048_576.0, "1.00M")]
        {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn milliseconds_have_three_digits() {
        for (number, text) in [
            (None, "-"),
            (Some(0.102), "0.102"),
            (Some(1.504), "1.50"),
            (Some(23.45), "23.4"),
            (Some(999.424), "999"),
            (Some(33_000_000.0), "33000s"),
        ] {
            assert_eq!(milliseconds(number), text);
        }
    }

    #[test]
    fn durations_show_two_or_three_parts() {
        assert_eq!(duration(61_999), "1m 01s");
        assert_eq!(duration(3_600_000), "1h 00m 00s");
        assert_eq!(duration(90_061_000), "1d 01h 01m");
    }

    #[test]
    fn counts_are_exact_as_long_as_they_fit() {
        assert_eq!(whole(99_999), "99999");
        assert_eq!(whole(1_000_000), "1.00M");
    }
}
