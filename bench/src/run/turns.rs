//! Who is measured when, and for how long.

use super::lane::SETTLE;
use super::results::{Round, ScenarioResult};
use crate::machine::{self, INTERRUPTION};

/// What a measurement takes beside its own time: starting, the first requests, ending; seconds.
const AROUND_S: f64 = 0.4;

/// Connections are opened and pools filled before the measurement, and each slice of it settles: a share of its own time.
const WARM_UP: f64 = 0.25 + SETTLE;

/// Longest time of one measurement unless another is asked for, seconds; and in the quick mode.
const LONGEST_S: f64 = 2.0;
const QUICK_LONGEST_S: f64 = 0.4;

/// Shortest one, seconds.
const SHORTEST_S: f64 = 0.1;

/// All measurements together, seconds: below the promised 15 minutes (1 minute) by what a failing peer may cost.
const WHOLE_S: f64 = 13.0 * 60.0;
const QUICK_WHOLE_S: f64 = 40.0;

/// Of a thousand exchanges so many may fail without the subject being left out of further rounds.
const FAILURES_PER_THOUSAND: u64 = 1;

/// How long each of so many measurements may be, seconds.
pub(super) fn seconds(measurements: usize, quick: bool) -> f64 {
    let (longest, whole) = if quick { (QUICK_LONGEST_S, QUICK_WHOLE_S) } else { (LONGEST_S, WHOLE_S) };
    let each = whole / float(measurements.max(1));
    let fitting = (each - AROUND_S) / (1.0 + WARM_UP);
    // Tenths, because people read it.
    (fitting * 10.0).floor().clamp(SHORTEST_S * 10.0, longest * 10.0) / 10.0
}

/// How long all of them take, for people.
pub(super) fn about(measurements: usize, seconds: f64) -> String {
    let whole = float(measurements) * (seconds * (1.0 + WARM_UP) + AROUND_S);
    if whole < 100.0 { format!("{whole:.0} s") } else { format!("{:.0} minutes", whole / 60.0) }
}

/// Lets the subjects be measured in rounds; `measure` is given the places in the table of those who take part, and the
/// number of the round. Who cannot be measured in a round, or fails in it, is left out of the others: it would only fail
/// again, which takes the time of everybody else.
///
/// # Errors
/// When this process was asked to end.
pub(super) fn take(
    result: &mut ScenarioResult,
    rounds: u32,
    mut measure: impl FnMut(&[usize], u32) -> Vec<Result<Round, String>>,
) -> Result<(), String> {
    for round in 1..=rounds {
        let fit = |index: &usize| {
            let subject = &result.subjects[*index];
            subject.skipped.is_none() && subject.left_out_after.is_none()
        };
        let who: Vec<usize> = order(result.subjects.len(), round, rounds).into_iter().filter(fit).collect();
        machine::check_interrupt()?;
        for (index, measured) in who.iter().zip(measure(&who, round)) {
            let subject = &mut result.subjects[*index];
            match measured {
                Ok(measured) => {
                    let failed = measured.errors > measured.done * FAILURES_PER_THOUSAND / 1000;
                    subject.left_out_after = (failed && round < rounds).then_some(round);
                    subject.rounds.push(Round { number: round, ..measured });
                }
                Err(why) if why == INTERRUPTION => return Err(why),
                Err(why) => subject.skipped = Some(why),
            }
        }
    }
    Ok(())
}

/// In which order the subjects take their turns in a round.
///
/// Each begins early in one round, in the middle of another and late in a third, and every second round goes backwards:
/// a machine that becomes faster or slower favours nobody, not even among two neighbours.
pub(super) fn order(count: usize, round: u32, rounds: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let turn = (round as usize - 1) * count / rounds as usize;
    order.rotate_left(turn.min(count));
    if round.is_multiple_of(2) {
        order.reverse();
    }
    order
}

#[allow(clippy::cast_precision_loss)] // some hundreds
const fn float(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::results::SubjectResult;

    fn table(names: &[&str]) -> ScenarioResult {
        let subject = |name: &&str| SubjectResult { name: (*name).into(), ..SubjectResult::default() };
        let subjects = names.iter().map(subject).collect();
        ScenarioResult { name: "small", title: "", unit: "", subjects, notes: Vec::new() }
    }

    #[test]
    fn who_fails_takes_no_further_time() {
        let mut result = table(&["sound", "failing", "absent", "nearly sound"]);
        let mut turns = Vec::new();
        take(&mut result, 3, |who, round| {
            turns.extend(who.iter().map(|index| (round, *index)));
            let round = Round { done: 10_000, ..Round::default() };
            let measure = |index: &usize| match index {
                0 => Ok(round.clone()),
                1 => Ok(Round { errors: 6000, ..round.clone() }),
                2 => Err("does not start".into()),
                _ => Ok(Round { errors: 3, ..round.clone() }),
            };
            who.iter().map(measure).collect()
        })
        .unwrap();
        let times = |subject| turns.iter().filter(|(_, index)| *index == subject).count();
        assert_eq!([0, 1, 2, 3].map(times), [3, 1, 1, 3]);
        assert_eq!(result.subjects[1].left_out_after, Some(1));
        assert_eq!(result.subjects[2].skipped.as_deref(), Some("does not start"));
        assert_eq!(result.subjects[3].left_out_after, None);
        assert_eq!(result.subjects[0].rounds.iter().map(|round| round.number).collect::<Vec<_>>(), [1, 2, 3]);
        let notes = super::super::notes(&result);
        assert!(notes.contains(
            &"failing: too many errors in round 1, so it was left out of the rounds after that".into()
        ));
    }

    #[test]
    fn an_interruption_ends_it() {
        let interrupted = take(&mut table(&["a", "b"]), 3, |_, _| vec![Err(INTERRUPTION.into())]);
        assert_eq!(interrupted.unwrap_err(), INTERRUPTION);
    }

    #[test]
    fn a_whole_run_ends_in_time() {
        for subjects in 3..=10 {
            for (measurements, quick) in [(subjects * 12 * 3 + 6, false), (subjects * 7, true)] {
                let seconds = seconds(measurements, quick);
                let whole = float(measurements) * (seconds * (1.0 + WARM_UP) + AROUND_S);
                assert!(whole <= if quick { 40.0 } else { 780.0 }, "{subjects} subjects take {whole} s");
                assert!(seconds >= if quick { 0.1 } else { 1.2 }, "{subjects} subjects for {seconds} s each");
            }
        }
        assert!((seconds(10, false) - 2.0).abs() < 1e-9 && (seconds(10, true) - 0.4).abs() < 1e-9);
        assert!((seconds(1_000_000, false) - 0.1).abs() < 1e-9);
        assert_eq!((about(10, 2.0), about(260, 2.0)), ("31 s".into(), "13 minutes".into()));
    }

    #[test]
    fn no_place_in_a_round_is_kept_for_anybody() {
        assert_eq!(order(3, 1, 3), [0, 1, 2]);
        assert_eq!(order(3, 2, 3), [0, 2, 1]);
        assert_eq!(order(3, 3, 3), [2, 0, 1]);
        for (count, rounds) in [(1, 1), (2, 3), (8, 3), (10, 7), (3, 100)] {
            for round in 1..=rounds {
                let mut all = order(count, round, rounds);
                all.sort_unstable();
                assert_eq!(
                    all,
                    (0..count).collect::<Vec<_>>(),
                    "{count} subjects, round {round} of {rounds}"
                );
            }
        }
        let first: Vec<usize> = (1..=4).map(|round| order(8, round, 4)[0]).collect();
        assert_eq!(first, [0, 1, 4, 5]);
    }
}
