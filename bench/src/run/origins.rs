//! The origins of a run: the built-in one, and nginx where it is installed.

use std::net::SocketAddr;
use std::path::Path;

use super::scenario::OriginKind;
use crate::content;
use crate::load::Work;
use crate::machine;
use crate::origin::Wrong;
use crate::peers::{self, Setting, Shape, Values};
use crate::process::{Process, Program};

/// Running origins; dropping ends them.
#[derive(Debug)]
pub(crate) struct Origins {
    _own: Process,
    nginx: Option<(Process, u16)>,
    http: u16,
    echo: u16,
}

impl Origins {
    /// Starts them, each with a folder of its own below `folder`.
    ///
    /// # Errors
    /// When the built-in one does not start. Without nginx it does without.
    pub(crate) fn start(
        folder: &Path,
        cpu: usize,
        nginx: bool,
        wrong: Option<Wrong>,
    ) -> Result<Self, String> {
        let (own, http, echo) = start_own(&subfolder(folder, "origin")?, cpu, wrong)?;
        let nginx = match peers::which("nginx").filter(|_| nginx) {
            Some(program) => Some(start_nginx(&program, &subfolder(folder, "origin-nginx")?, cpu)?),
            None => None,
        };
        Ok(Self { _own: own, nginx, http, echo })
    }

    /// The port of an origin.
    pub(crate) fn port(&self, kind: OriginKind) -> u16 {
        match kind {
            OriginKind::Files => self.nginx.as_ref().map_or(self.http, |(_, port)| *port),
            OriginKind::Own => self.http,
            OriginKind::Echo => self.echo,
        }
    }

    /// Who answers downloads, for the report.
    pub(crate) const fn describe(&self) -> &'static str {
        if self.nginx.is_some() { "nginx for downloads, built-in for uploads and echoes" } else { "built-in" }
    }
}

/// A folder below another one.
pub(crate) fn subfolder(folder: &Path, name: &str) -> Result<std::path::PathBuf, String> {
    let path = folder.join(name);
    std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

fn start_own(folder: &Path, cpu: usize, wrong: Option<Wrong>) -> Result<(Process, u16, u16), String> {
    let (http, echo) = (machine::free_port()?, machine::free_port()?);
    let own = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
    let mut program = Program::new([own], &[cpu]);
    let line = format!("origin --http {http} --echo {echo}");
    program.argv.extend(line.split(' ').map(Into::into));
    if let Some(wrong) = wrong {
        let name = format!("{wrong:?}").to_lowercase();
        program.argv.extend(["--wrong".into(), name.into()]);
    }
    let mut process = Process::start(&program, folder)?;
    let answers = |address: SocketAddr, process: &mut Process| {
        peers::wait_for_answer(process, address, &Work::Echo { bytes: content::SMALL })
    };
    // The HTTP side is listened on first, so whoever echoes serves both.
    answers(peers::local(echo), &mut process).map_err(|error| format!("origin: {error}"))?;
    Ok((process, http, echo))
}

fn start_nginx(program: &Path, folder: &Path, cpu: usize) -> Result<(Process, u16), String> {
    let port = machine::free_port()?;
    let files = subfolder(folder, "files")?;
    for length in [content::MEDIUM, content::LARGE] {
        let path = files.join(length.to_string());
        std::fs::write(&path, content::body(length))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let setting = Setting { shape: Shape::Http, origin_port: 0, workers: 1, cpus: &[cpu], folder };
    let file = Values::new(&setting, port).write("origin-nginx.conf", folder)?;
    let program = Program::new(peers::nginx_argv(program, folder, &file), &[cpu]);
    let mut process = Process::start(&program, folder)?;
    for length in [content::SMALL, content::MEDIUM, content::LARGE] {
        let answered = peers::wait_for_answer(&mut process, peers::local(port), &Work::get(length));
        answered.map_err(|error| format!("origin (nginx): {error}"))?;
    }
    Ok((process, port))
}
