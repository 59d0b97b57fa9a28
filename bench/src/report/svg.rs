//! Plots: one bar for each subject, in colours that can be read on light and on dark ground.

use std::path::Path;

use crate::run::results::{Results, ScenarioResult};

const WIDTH: f64 = 640.0;
const NAME_WIDTH: f64 = 100.0;
const VALUE_WIDTH: f64 = 130.0;
const BAR: f64 = 20.0;
const STEP: f64 = 28.0;
const TOP: f64 = 44.0;

/// The text takes the colour of the reader's ground where the viewer tells it, and grey where not.
const STYLE: &str = "text{font:13px sans-serif;fill:#57606a}.title{font-weight:bold}.own{fill:#1f77b4}\
                     .peer{fill:#8c959f}.spread{stroke:#57606a;stroke-width:1.5}\
                     @media(prefers-color-scheme:dark){text{fill:#c9d1d9}.own{fill:#58a6ff}.peer{fill:#6e7681}\
                     .spread{stroke:#c9d1d9}}";

/// Writes a plot for each scenario that has numbers: `NAME.svg`.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write_all(results: &Results, folder: &Path) -> Result<(), String> {
    for scenario in &results.scenarios {
        if let Some(text) = plot(scenario) {
            super::write(&folder.join(format!("{}.svg", scenario.name)), &text)?;
        }
    }
    Ok(())
}

fn plot(scenario: &ScenarioResult) -> Option<String> {
    let bars: Vec<(&str, f64, [f64; 2])> = scenario
        .subjects
        .iter()
        .filter_map(|subject| Some((subject.name.as_str(), subject.value?, subject.spread?)))
        .collect();
    let most = bars.iter().map(|(_, _, [_, most])| *most).fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let scale = (WIDTH - NAME_WIDTH - VALUE_WIDTH) / most;
    let height = TOP + STEP * f64::from(u32::try_from(bars.len()).unwrap_or(u32::MAX)) + 8.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n<style>{STYLE}</style>\n\
         <text class=\"title\" x=\"8\" y=\"20\">{}</text>\n<text x=\"8\" y=\"37\">{}, less is better</text>\n",
        escape(scenario.title),
        escape(scenario.unit)
    );
    let mut y = TOP;
    for (name, value, [least, largest]) in bars {
        let class = if name.starts_with("ouro") { "own" } else { "peer" };
        let at = |value: f64| NAME_WIDTH + value.max(0.0) * scale;
        let (middle, baseline) = (y + BAR / 2.0, y + BAR / 2.0 + 4.5);
        text.push_str(&format!(
            "<text x=\"{:.1}\" y=\"{baseline:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect class=\"{class}\" x=\"{NAME_WIDTH}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>\n\
             <line class=\"spread\" x1=\"{:.1}\" y1=\"{middle:.1}\" x2=\"{:.1}\" y2=\"{middle:.1}\"/>\n\
             <text x=\"{:.1}\" y=\"{baseline:.1}\">{value:.1}</text>\n",
            NAME_WIDTH - 8.0,
            escape(name),
            at(value) - NAME_WIDTH,
            at(least),
            at(largest),
            at(value.max(largest)) + 8.0,
        ));
        y += STEP;
    }
    text.push_str("</svg>\n");
    Some(text)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::results::tests::sample;

    #[test]
    fn there_is_a_bar_for_each_subject_with_numbers() {
        let mut scenario = sample().scenarios.remove(0);
        let text = plot(&scenario).unwrap();
        assert_eq!(text.matches("<rect").count(), 2);
        assert_eq!(text.matches("class=\"own\"").count(), 1);
        scenario.subjects.iter_mut().for_each(|subject| subject.value = None);
        assert_eq!(plot(&scenario), None);
    }

    #[test]
    fn texts_cannot_break_the_markup() {
        assert_eq!(escape("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
    }
}
