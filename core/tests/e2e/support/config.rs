//! Configuration texts for the most common shape: a listener `web` in front of a cluster `origin`.

use std::fmt::Write;

/// Builds a configuration text. `{dir}` in it becomes the directory of the proxy.
#[derive(Clone, Default)]
pub(crate) struct Config {
    server: String,
    listener: String,
    routes: String,
    endpoints: Vec<String>,
    cluster: String,
    extra: String,
}

impl Config {
    /// One listener on a free port that forwards everything to these endpoints.
    pub(crate) fn to(endpoints: impl IntoIterator<Item = impl ToString>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(|endpoint| endpoint.to_string()).collect(),
            routes: "[[listeners.routes]]\ncluster = \"origin\"\n".to_owned(),
            ..Self::default()
        }
    }

    /// Adds keys to `[server]`.
    pub(crate) fn server(mut self, keys: &str) -> Self {
        writeln!(self.server, "{keys}").unwrap();
        self
    }

    /// Adds keys to the listener.
    pub(crate) fn listener(mut self, keys: &str) -> Self {
        writeln!(self.listener, "{keys}").unwrap();
        self
    }

    /// Replaces the routes; each is a table header and its keys.
    pub(crate) fn routes(mut self, routes: &str) -> Self {
        self.routes = routes.to_owned();
        self
    }

    /// Adds keys to the cluster.
    pub(crate) fn cluster(mut self, keys: &str) -> Self {
        writeln!(self.cluster, "{keys}").unwrap();
        self
    }

    /// Adds whole tables behind everything else.
    pub(crate) fn extra(mut self, tables: &str) -> Self {
        writeln!(self.extra, "{tables}").unwrap();
        self
    }

    /// The configuration of an HTTP listener.
    pub(crate) fn http(&self) -> String {
        self.text("http", &self.routes)
    }

    /// The configuration of a TCP listener.
    pub(crate) fn tcp(&self) -> String {
        self.text("tcp", "cluster = \"origin\"\n")
    }

    fn text(&self, protocol: &str, tail: &str) -> String {
        let address = if self.listener.contains("address =") { "" } else { "address = \"127.0.0.1:0\"\n" };
        let mut text = format!(
            "[server]\n{}\n[[listeners]]\nname = \"web\"\nprotocol = \"{protocol}\"\n{address}{}\n{tail}\n",
            self.server, self.listener
        );
        if !self.endpoints.is_empty() {
            write!(
                text,
                "[[clusters]]\nname = \"origin\"\nendpoints = {:?}\n{}\n",
                self.endpoints, self.cluster
            )
            .unwrap();
        }
        text + &self.extra
    }
}
