//! Any text is a configuration or a list of errors, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ouro::base::random::Random;
use ouro::config::model::{Protocol, RouteAction};
use ouro::route::{RouteQuery, RouteTable, pick_cluster, redirect_location, rewrite_path};

fuzz_target!(|text: &str| {
    let model = match ouro::config::parse(text, "fuzz.toml") {
        Ok(model) => model,
        Err(errors) => {
            assert!(errors.iter().count() > 0);
            // No error may carry control characters from the file to a terminal or a log.
            assert!(!errors.to_string().contains(|c: char| c.is_control() && c != '\n'));
            return;
        }
    };
    let mut random = Random::new(1);
    for listener in &model.listeners {
        let Protocol::Http(http) = &listener.protocol else { continue };
        let (host, path) = (&b"a.example.com:80"[..], &b"/a/b?c"[..]);
        let query = RouteQuery { host, path, method: b"GET", fields: &[], head: b"" };
        let Some(route) = RouteTable::new(&http.routes).pick(&http.routes, &query) else { continue };
        let mut out = Vec::new();
        match &route.action {
            RouteAction::Forward(forward) => {
                assert!(pick_cluster(forward, &mut random) < model.clusters.len());
                rewrite_path(route, forward, path, &mut out);
                assert!(out.starts_with(b"/"));
            }
            RouteAction::Redirect(redirect) => {
                redirect_location(route, redirect, "http", host, path, &mut out);
                assert!(out.starts_with(b"http"));
            }
            RouteAction::Respond(respond) => assert!((200..600).contains(&respond.status)),
        }
    }
});
