//! Results for people.

pub(crate) mod markdown;
pub(crate) mod svg;
pub(crate) mod table;

use std::path::Path;

/// Writes a file, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(failed)?;
    // A temporary file is for its owner alone; results are for everybody.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Writes results as JSON.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write_json(path: &Path, results: &impl serde::Serialize) -> Result<(), String> {
    let mut text = serde_json::to_string_pretty(results).map_err(|error| error.to_string())?;
    text.push('\n');
    write(path, &text)
}

/// The command line of this process, without the folders that the program lies in.
pub(crate) fn command() -> String {
    let mut args: Vec<String> = std::env::args().collect();
    if let Some(program) = args.first_mut() {
        *program = env!("CARGO_PKG_NAME").into();
    }
    args.join(" ")
}
