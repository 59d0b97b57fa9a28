//! Writes access logs: pieces come from the workers, files are written through the control thread's ring.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;
use tokio_uring::fs::{File, OpenOptions};

use crate::config::model::{LogTarget, Model};

/// Pieces that wait for the writer, all workers together; a worker keeps what does not fit, up to its own bound.
const QUEUED_PIECES: usize = 256;

/// What the writer is asked to do.
pub enum Job {
    /// Append these lines.
    Write(LogTarget, Vec<u8>),
    /// Open every file again under its name.
    Reopen,
    /// Say when everything before this has been written.
    Flush(tokio::sync::oneshot::Sender<()>),
}

/// The channel to the writer.
#[must_use]
pub fn channel() -> (mpsc::Sender<Job>, mpsc::Receiver<Job>) {
    mpsc::channel(QUEUED_PIECES)
}

/// Opens every access-log file of the configuration, so that one that cannot be written is known at start.
///
/// # Errors
/// Which file, and why.
pub fn check(model: &Model) -> Result<(), String> {
    for listener in &model.listeners {
        if let Some(log) = &listener.access_log
            && let LogTarget::File(path) = &log.target
        {
            let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
            opened.map_err(|error| {
                format!("access log {} of listener {}: {error}", path.display(), listener.name)
            })?;
        }
    }
    Ok(())
}

/// Writes until all senders are gone.
pub async fn write(mut jobs: mpsc::Receiver<Job>) {
    let mut files = HashMap::<PathBuf, File>::new();
    while let Some(job) = jobs.recv().await {
        match job {
            Job::Write(LogTarget::Stdout, lines) => {
                // Standard output may be anything, a slow terminal included; a thread of its own may wait for it.
                let _ = tokio::task::spawn_blocking(move || {
                    let mut out = io::stdout().lock();
                    out.write_all(&lines).and_then(|()| out.flush())
                })
                .await;
            }
            Job::Write(LogTarget::File(path), lines) => {
                if let Err(error) = append(&mut files, &path, lines).await {
                    tracing::error!(path = %path.display(), %error, "access log not written");
                    files.remove(&path);
                }
            }
            Job::Reopen => {
                let open: Vec<PathBuf> = files.keys().cloned().collect();
                for (_, file) in files.drain() {
                    let _ = file.close().await;
                }
                // At once, so that whoever moved the old file away sees that the new one is in use.
                for path in open {
                    if let Err(error) = append(&mut files, &path, Vec::new()).await {
                        tracing::error!(path = %path.display(), %error, "access log not reopened");
                    }
                }
            }
            Job::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

async fn append(files: &mut HashMap<PathBuf, File>, path: &Path, lines: Vec<u8>) -> io::Result<()> {
    if !files.contains_key(path) {
        let file = OpenOptions::new().append(true).create(true).open(path).await?;
        files.insert(path.to_owned(), file);
    }
    let Some(file) = files.get(path) else { return Ok(()) };
    if lines.is_empty() {
        return Ok(());
    }
    // The offset does not matter: the file is open for appending.
    let (result, _) = file.write_all_at(lines, 0).await;
    result
}
