//! Fills the configuration files of `bench/peers/`.
//!
//! `@NAME@` stands for a value. Lines between `#@each host` and `#@end` are repeated for each host name.

use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::Setting;
use crate::content;
use crate::machine;

/// Connections that a proxy is allowed at least to have: the idle scenario and some more.
const MAX_CONNECTIONS: u64 = 9000;

/// Where nginx keeps its modules, by distribution.
const NGINX_MODULES: &[&str] = &["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/libexec/nginx"];

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/peers/", $name)))),*]
    };
}

const FILES: &[(&str, &str)] = files![
    "caddy-http.Caddyfile",
    "caddy-routes.Caddyfile",
    "envoy-http.yaml",
    "envoy-restart.yaml",
    "envoy-routes.yaml",
    "envoy-tcp.yaml",
    "haproxy-http.cfg",
    "haproxy-restart.cfg",
    "haproxy-routes.cfg",
    "haproxy-tcp.cfg",
    "nginx-http.conf",
    "nginx-restart.conf",
    "nginx-routes.conf",
    "nginx-tcp.conf",
    "origin-nginx.conf",
    "ouro-http.toml",
    "ouro-restart.toml",
    "ouro-routes.toml",
    "ouro-soak.toml",
    "ouro-tcp.toml",
    "sozu-http.toml",
    "sozu-restart.toml",
    "sozu-routes.toml",
    "sozu-tcp.toml",
    "traefik-http.yaml",
    "traefik-routes.yaml",
    "traefik-static.yaml",
    "traefik-tcp.yaml",
];

/// What stands for the names in a template.
#[derive(Debug)]
pub(crate) struct Values {
    pairs: Vec<(&'static str, String)>,
}

impl Values {
    /// The values for a proxy that listens on `port`.
    pub(crate) fn new(setting: &Setting<'_>, port: u16) -> Self {
        let files = machine::open_files();
        let connections = (files.saturating_sub(200) / 2).clamp(100, MAX_CONNECTIONS);
        let module = NGINX_MODULES.iter().map(|folder| format!("{folder}/ngx_stream_module.so"));
        let module = module.into_iter().find(|path| Path::new(path).exists());
        let user = if geteuid().is_root() { "user root;" } else { "" };
        Self {
            pairs: vec![
                ("PORT", port.to_string()),
                ("ORIGIN_PORT", setting.origin_port.to_string()),
                ("WORKERS", setting.workers.to_string()),
                ("RUN", setting.folder.to_string_lossy().into_owned()),
                ("OPEN_FILES", files.to_string()),
                ("CONNECTIONS", connections.to_string()),
                ("BUFFERS", (connections * 2).to_string()),
                ("USER", user.to_owned()),
                ("LOAD_STREAM", module.map_or_else(String::new, |path| format!("load_module {path};"))),
                ("SMALL_BODY", String::from_utf8_lossy(&content::body(content::SMALL)).into_owned()),
            ],
        }
    }

    /// Adds a value.
    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.pairs.push((name, value.to_string()));
        self
    }

    /// Writes a configuration file into a folder.
    ///
    /// # Errors
    /// When there is no such template, or the file cannot be written.
    pub(crate) fn write(&self, name: &str, folder: &Path) -> Result<PathBuf, String> {
        let template = FILES.iter().find(|(file, _)| *file == name).map(|(_, text)| *text);
        let template = template.ok_or_else(|| format!("there is no configuration {name}"))?;
        let path = folder.join(name);
        std::fs::write(&path, self.fill(template)).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    /// Writes the table that HAProxy finds backends with.
    pub(crate) fn write_host_map(&self, path: &Path) -> Result<(), String> {
        let lines: String = (0..content::HOSTS).map(|n| format!("{} origin\n", content::host(n))).collect();
        std::fs::write(path, lines).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn fill(&self, template: &str) -> String {
        let mut text = String::new();
        let mut lines = template.lines();
        while let Some(line) = lines.next() {
            if line.trim() != "#@each host" {
                text.push_str(line);
                text.push('\n');
                continue;
            }
            let block: Vec<&str> = lines.by_ref().take_while(|line| line.trim() != "#@end").collect();
            for number in 0..content::HOSTS {
                for line in &block {
                    let line = line.replace("@HOST@", &content::host(number));
                    text.push_str(&line.replace("@NUMBER@", &number.to_string()));
                    text.push('\n');
                }
            }
        }
        for (name, value) in &self.pairs {
            text = text.replace(&format!("@{name}@"), value);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::Shape;
    use super::*;

    #[test]
    fn every_name_in_every_template_has_a_value() {
        let folder = Path::new("/tmp/x");
        let setting = Setting { shape: Shape::Http, origin_port: 2, workers: 1, cpus: &[], folder };
        let values = Values::new(&setting, 1)
            .with("OLD_LIVES_S", 5)
            .with("TCP_PORT", 3)
            .with("ECHO_PORT", 4)
            .with("WEBSOCKET_PORT", 5)
            .with("VARIANT", "a")
            .with("MORE", "")
            .with("DAEMON", "on");
        for (name, template) in FILES {
            let text = values.fill(template);
            for (at, _) in text.match_indices('@') {
                let rest = &text[at + 1..];
                let end = rest.find(|letter: char| !letter.is_ascii_uppercase() && letter != '_');
                let word = &rest[..end.unwrap_or(rest.len())];
                assert!(word.is_empty() || !rest[word.len()..].starts_with('@'), "{name}: @{word}@");
            }
            assert!(!text.contains("#@"), "{name}");
        }
    }

    #[test]
    fn the_configurations_of_the_proxy_are_right() {
        let folder = Path::new("/tmp/x");
        let setting = Setting { shape: Shape::Http, origin_port: 2, workers: 1, cpus: &[], folder };
        let values = Values::new(&setting, 1).with("TCP_PORT", 3).with("ECHO_PORT", 4);
        let values = values.with("WEBSOCKET_PORT", 5).with("VARIANT", "b").with("MORE", "");
        for (name, template) in FILES.iter().filter(|(name, _)| name.starts_with("ouro-")) {
            ouro::config::parse(&values.fill(template), name).unwrap();
        }
    }
}
