//! CPU time of a process, from `/proc/PID/task/*/schedstat`: nanoseconds, where `/proc/PID/stat` has ticks of 10 ms.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

/// CPU time of each thread so far, nanoseconds, by thread id.
type Sample = BTreeMap<u32, u64>;

/// What was measured.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    cpu_ns: u64,
    elapsed: Duration,
    threads: usize,
    ended: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elapsed_ns = self.elapsed.as_nanos().max(1);
        writeln!(f, "cpu_ns {}", self.cpu_ns)?;
        writeln!(f, "elapsed_ns {elapsed_ns}")?;
        writeln!(f, "cpu_ns_per_second {}", u128::from(self.cpu_ns) * 1_000_000_000 / elapsed_ns)?;
        write!(f, "threads {}", self.threads)?;
        if self.ended > 0 {
            write!(f, "\nthreads_ended {} (what they used is not counted)", self.ended)?;
        }
        Ok(())
    }
}

/// Measures for `time`, sleeping meanwhile.
///
/// # Errors
/// When there is no such process, it ends meanwhile, or the kernel does not tell; the text says which.
pub(crate) fn measure(pid: u32, time: Duration) -> Result<Report, String> {
    let before = sample(pid)?;
    let start = Instant::now();
    std::thread::sleep(time);
    let after = sample(pid)?;
    Ok(compare(&before, &after, start.elapsed()))
}

/// Threads that came meanwhile count from zero; those that went cannot be asked any more.
fn compare(before: &Sample, after: &Sample, elapsed: Duration) -> Report {
    let used = |(thread, end): (&u32, &u64)| {
        let start = before.get(thread).copied().unwrap_or_default();
        // A thread that has used less than before is another one with the same id.
        end.checked_sub(start).unwrap_or(*end)
    };
    Report {
        cpu_ns: after.iter().map(used).sum(),
        elapsed,
        threads: after.len(),
        ended: before.keys().filter(|thread| !after.contains_key(thread)).count(),
    }
}

fn sample(pid: u32) -> Result<Sample, String> {
    let folder = format!("/proc/{pid}/task");
    let entries = std::fs::read_dir(&folder).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("there is no process {pid}"),
        _ => format!("{folder}: {error}"),
    })?;
    let mut sample = Sample::new();
    for entry in entries {
        let entry = entry.map_err(|error| format!("{folder}: {error}"))?;
        let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let path = entry.path().join("schedstat");
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let time = parse(&text);
                sample.insert(
                    thread,
                    time.ok_or_else(|| format!("{}: not as expected: {text:?}", path.display()))?,
                );
            }
            // The thread ended between the listing and now, unless it is still listed: then the kernel has no such file.
            Err(error) if gone(&error) && !entry.path().exists() => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!("{}: this kernel has no scheduler statistics", path.display()));
            }
            Err(error) => return Err(format!("{}: {error}", path.display())),
        }
    }
    if sample.is_empty() { Err(format!("process {pid} has ended")) } else { Ok(sample) }
}

/// Reading from the folder of a thread that has just ended says "no such file" or "no such process".
fn gone(error: &io::Error) -> bool {
    const ESRCH: i32 = 3;
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH)
}

/// The first of the three numbers of a `schedstat` file: nanoseconds on a CPU. The others are nanoseconds of waiting
/// for one, and how often the thread was given one.
fn parse(text: &str) -> Option<u64> {
    let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
    match numbers.ok()?[..] {
        [on_cpu, _waiting, _times] => Some(on_cpu),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_is_the_time_on_a_cpu() {
        assert_eq!(parse("1048823 52301 17\n"), Some(1_048_823));
        assert_eq!(parse("0 0 0\n"), Some(0));
        assert_eq!(parse("18446744073709551615 0 1"), Some(u64::MAX));
    }

    #[test]
    fn what_is_no_schedstat_is_refused() {
        for text in ["", "\n", "1 2", "1 2 3 4", "1 2 x", "-1 2 3", "18446744073709551616 0 0"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn threads_come_and_go() {
        let before = Sample::from([(1, 100), (2, 50), (3, 900)]);
        let after = Sample::from([(1, 160), (3, 20), (4, 7)]);
        let report = compare(&before, &after, Duration::from_nanos(2_000_000_000));
        assert_eq!(
            report,
            Report { cpu_ns: 60 + 20 + 7, elapsed: Duration::from_secs(2), threads: 3, ended: 1 }
        );
        assert!(report.to_string().contains("\ncpu_ns_per_second 43\n"), "{report}");
    }

    #[test]
    fn a_busy_process_is_seen_to_be_busy() {
        let before = sample(std::process::id()).unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let report = compare(&before, &sample(std::process::id()).unwrap(), start.elapsed());
        // Other tests run beside this one, and on a loaded machine it may have waited most of the time.
        assert!(report.cpu_ns > 100_000, "{report}");
    }

    #[test]
    fn a_process_that_is_not_there_is_told() {
        // Above the largest process id that Linux gives (2^22).
        assert_eq!(measure(4_194_305, Duration::ZERO), Err("there is no process 4194305".into()));
    }
}
