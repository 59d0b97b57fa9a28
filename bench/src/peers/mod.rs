//! Who is measured: how each peer is found, configured and started.
//!
//! The configurations are the files of `bench/peers/`, compiled in so that the program needs nothing but itself.

mod template;

use std::ffi::OsString;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::load::{Load, Plan, Work};
use crate::machine;
use crate::process::{POLL, Process, Program};

pub(crate) use self::template::Values;

/// How long a proxy may take until it answers.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Where programs are that administrators start and `PATH` may leave out.
const MORE_FOLDERS: &[&str] = &["/usr/sbin", "/usr/local/sbin", "/usr/local/bin"];

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Subject {
    /// No proxy: the load goes to the origin.
    Direct,
    /// A bare byte relay on the proxy's ring runtime.
    Relay,
    /// This project's proxy.
    Ouro,
    /// Another build of it (--before), to see what a change is worth.
    Before,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Envoy.
    Envoy,
    /// Sozu.
    Sozu,
    /// A minimal proxy with the Pingora library.
    Pingora,
    /// Traefik.
    Traefik,
    /// Caddy.
    Caddy,
}

/// What a proxy has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// HTTP, everything to one origin.
    Http,
    /// HTTP, one route for each of many hosts.
    Routes,
    /// Bytes.
    Tcp,
}

impl Subject {
    /// In the order of the tables.
    pub(crate) const ALL: [Self; 11] = [
        Self::Direct,
        Self::Relay,
        Self::Ouro,
        Self::Before,
        Self::Nginx,
        Self::Haproxy,
        Self::Envoy,
        Self::Sozu,
        Self::Pingora,
        Self::Traefik,
        Self::Caddy,
    ];

    /// Name on the command line and in results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Ouro => "ouro",
            Self::Before => "before",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Sozu => "sozu",
            Self::Pingora => "pingora",
            Self::Traefik => "traefik",
            Self::Caddy => "caddy",
        }
    }

    /// Ours: what must be there and must not fail.
    pub(crate) const fn is_own(self) -> bool {
        matches!(self, Self::Direct | Self::Relay | Self::Ouro)
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Before => Self::Ouro.name(),
            Self::Pingora => "pingora-example",
            _ => self.name(),
        }
    }

    const fn version_argument(self) -> &'static str {
        match self {
            Self::Nginx | Self::Haproxy => "-v",
            Self::Traefik | Self::Caddy => "version",
            _ => "--version",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A subject that is on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Which one.
    pub(crate) subject: Subject,
    /// Its program.
    pub(crate) program: PathBuf,
    /// What it says of its version.
    pub(crate) version: String,
}

/// Looks for a subject. `build` is the program of one that is a build of ours, if one was named.
///
/// # Errors
/// Why it cannot be measured here.
pub(crate) fn find(subject: Subject, build: Option<&Path>) -> Result<Found, String> {
    let program = match subject {
        Subject::Direct | Subject::Relay => {
            let own = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
            let version = concat!("part of ouro-bench ", env!("CARGO_PKG_VERSION")).to_owned();
            return Ok(Found { subject, program: own, version });
        }
        Subject::Before if build.is_none() => return Err("is named with --before".into()),
        Subject::Ouro | Subject::Before => ouro_program(build)?,
        _ => which(subject.program()).ok_or_else(|| format!("{} is not installed", subject.program()))?,
    };
    let version = machine::version_of(&program.to_string_lossy(), subject.version_argument())
        .ok_or_else(|| format!("{} does not tell its version", program.display()))?;
    Ok(Found { subject, program, version })
}

fn ouro_program(given: Option<&Path>) -> Result<PathBuf, String> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => {
            let own = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
            own.with_file_name("ouro")
        }
    };
    // Proxies run in folders of their own, where a relative path would lead elsewhere.
    path.canonicalize().map_err(|error| {
        format!(
            "{}: {error}; build it with `cargo build --release -p ouro`, or name another with --ouro",
            path.display()
        )
    })
}

/// The path of a program.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(MORE_FOLDERS.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// What a proxy is started with.
#[derive(Debug, Clone)]
pub(crate) struct Setting<'s> {
    /// What it has to do.
    pub(crate) shape: Shape,
    /// Port of the origin.
    pub(crate) origin_port: u16,
    /// Worker threads or processes.
    pub(crate) workers: usize,
    /// CPUs that it may use.
    pub(crate) cpus: &'s [usize],
    /// Folder for what it writes.
    pub(crate) folder: &'s Path,
}

/// A proxy that runs.
#[derive(Debug)]
pub(crate) struct Running {
    /// None for [`Subject::Direct`].
    pub(crate) process: Option<Process>,
    /// Where it is reached.
    pub(crate) address: SocketAddr,
}

impl Found {
    /// Starts it and waits until it answers `probe` rightly.
    ///
    /// # Errors
    /// Why it cannot do this, did not start or does not answer.
    pub(crate) fn start(&self, setting: &Setting<'_>, probe: &Work) -> Result<Running, String> {
        if self.subject == Subject::Direct {
            return Ok(Running { process: None, address: local(setting.origin_port) });
        }
        let port = machine::free_port()?;
        let program = self.program(setting, port)?;
        let mut process = Process::start(&program, setting.folder)?;
        wait_for_answer(&mut process, local(port), probe)?;
        Ok(Running { process: Some(process), address: local(port) })
    }

    /// Writes the configuration and says how the program is called.
    fn program(&self, setting: &Setting<'_>, port: u16) -> Result<Program, String> {
        let values = Values::new(setting, port);
        let write = |name: &str| values.write(&format!("{}-{name}", self.subject.program()), setting.folder);
        let shape = match setting.shape {
            Shape::Http => "http",
            Shape::Routes => "routes",
            Shape::Tcp => "tcp",
        };
        let workers = setting.workers.to_string();
        let own = || self.program.clone().into_os_string();
        let mut env = Vec::new();
        let argv: Vec<OsString> = match self.subject {
            Subject::Direct => return Err("is no program".into()),
            Subject::Relay => {
                let (listen, to) = (port.to_string(), setting.origin_port.to_string());
                vec![own(), "relay".into(), "--listen".into(), listen.into(), "--to".into(), to.into()]
            }
            Subject::Ouro | Subject::Before => {
                let file = write(&format!("{shape}.toml"))?;
                let level: OsString = "warn".into();
                vec![
                    own(),
                    "-c".into(),
                    file.into(),
                    "--concurrency".into(),
                    workers.into(),
                    // Nothing of it is restarted, and other instances of the machine are none of its business.
                    "--disable-hot-restart".into(),
                    "-l".into(),
                    level,
                ]
            }
            Subject::Nginx => {
                let file = write(&format!("{shape}.conf"))?;
                nginx_argv(&self.program, setting.folder, &file)
            }
            Subject::Haproxy => {
                if setting.shape == Shape::Routes {
                    values.write_host_map(&setting.folder.join("hosts.map"))?;
                }
                vec![own(), "-db".into(), "-f".into(), write(&format!("{shape}.cfg"))?.into()]
            }
            Subject::Envoy => {
                let file = write(&format!("{shape}.yaml"))?;
                let concurrency = format!("--concurrency {workers} --disable-hot-restart -l error");
                let mut argv = vec![own(), "-c".into(), file.into()];
                argv.extend(concurrency.split(' ').map(OsString::from));
                argv
            }
            Subject::Sozu => {
                let file = write(&format!("{shape}.toml"))?;
                vec![own(), "start".into(), "-c".into(), file.into()]
            }
            Subject::Pingora => {
                if setting.shape != Shape::Http {
                    return Err("the example only knows one HTTP origin".into());
                }
                let to = setting.origin_port.to_string();
                let (listen, threads) = (port.to_string(), workers);
                vec![own(), listen.into(), to.into(), threads.into()]
            }
            Subject::Traefik => {
                // One program, two files: the static one names the other.
                let routes = write(&format!("{shape}.yaml"))?;
                let renamed = setting.folder.join("traefik.yaml");
                std::fs::rename(routes, renamed).map_err(|error| error.to_string())?;
                env.push(("GOMAXPROCS", workers));
                let mut file = OsString::from("--configFile=");
                file.push(write("static.yaml")?);
                vec![own(), file]
            }
            Subject::Caddy => {
                if setting.shape == Shape::Tcp {
                    return Err("it has no TCP proxy".into());
                }
                let file = write(&format!("{shape}.Caddyfile"))?;
                env.push(("GOMAXPROCS", workers));
                env.push(("HOME", setting.folder.to_string_lossy().into_owned()));
                vec![
                    own(),
                    "run".into(),
                    "--adapter".into(),
                    "caddyfile".into(),
                    "--config".into(),
                    file.into(),
                ]
            }
        };
        Ok(Program { env, ..Program::new(argv, setting.cpus) })
    }
}

/// How nginx is called, as a proxy or as the origin.
pub(crate) fn nginx_argv(program: &Path, folder: &Path, file: &Path) -> Vec<OsString> {
    let errors = folder.join("error.log");
    let [prefix, error, config] = ["-p", "-e", "-c"].map(OsString::from);
    vec![program.into(), prefix, folder.into(), error, errors.into(), config, file.into()]
}

/// An address on this machine.
pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Waits until a process answers an exchange as it must.
pub(crate) fn wait_for_answer(
    process: &mut Process,
    address: SocketAddr,
    probe: &Work,
) -> Result<(), String> {
    let end = Instant::now() + START_PATIENCE;
    let mut last = String::from("does not accept connections");
    while Instant::now() < end {
        machine::check_interrupt()?;
        if let Some(why) = process.ended() {
            return Err(why);
        }
        // Without this look, each vain attempt would be a whole load.
        if TcpStream::connect(address).is_ok() {
            let mut load = Load::new(vec![Plan::new("probe", address, 1, probe.clone())])?;
            load.run_until_served(Duration::from_secs(1))?;
            load.finish()?;
            let tally = &load.tallies()[0];
            if tally.done > 0 && tally.errors() == 0 {
                return Ok(());
            }
            last = tally.examples().join("; ");
        }
        std::thread::sleep(POLL);
    }
    Err(format!("does not answer as it must: {last}; {}", process.output_tail()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_the_remedy() {
        let error = find(Subject::Ouro, Some(Path::new("/nonexistent/ouro"))).unwrap_err();
        assert!(error.contains("cargo build --release -p ouro"), "{error}");
        let error = find(Subject::Before, None).unwrap_err();
        assert!(error.contains("--before"), "{error}");
        assert!(find(Subject::Relay, None).is_ok());
        assert_eq!(which("surely-no-such-program"), None);
    }
}
