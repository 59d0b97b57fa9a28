//! `docs/configuration.md` says what the code does: its reference is the one that the code prints, and its examples
//! are configurations.

use std::fs;
use std::path::PathBuf;

use ouro::config;

const BEGIN: &str = "<!-- reference: generated from core/src/config/schema, do not edit -->\n";
const END: &str = "<!-- end of reference -->\n";

fn page_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md")
}

#[test]
fn the_reference_is_the_one_that_the_code_prints() {
    let page = fs::read_to_string(page_path()).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the mark where the reference begins");
    let (_, after) = rest.split_once(END).expect("the mark where the reference ends");
    let expected = format!("{before}{BEGIN}\n{}\n{END}{after}", config::doc::reference());
    if page == expected {
        return;
    }
    if std::env::var_os("OURO_UPDATE_DOCS").is_some() {
        fs::write(page_path(), expected).unwrap();
        return;
    }
    let (number, line) = expected
        .lines()
        .enumerate()
        .zip(page.lines().chain(std::iter::repeat("")))
        .find(|((_, expected), found)| expected != found)
        .map_or((0, ""), |(expected, _)| expected);
    panic!(
        "docs/configuration.md is not up to date, first at line {}, which should be\n{line}\n\
         To bring it up to date: OURO_UPDATE_DOCS=1 cargo test -p ouro --test config_docs",
        number + 1
    );
}

#[test]
fn every_example_is_a_configuration() {
    let page = fs::read_to_string(page_path()).unwrap();
    let mut examples = 0;
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line != "```toml" {
            continue;
        }
        let example: String = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").fold(
            String::new(),
            |mut text, line| {
                text.push_str(line);
                text.push('\n');
                text
            },
        );
        let name = format!("the example at line {}", number + 1);
        let model = config::parse(&example, &name).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(model.warnings.is_empty(), "{name}: {:?}", model.warnings);
        examples += 1;
    }
    assert!(examples > 0, "no ```toml block found");
}
