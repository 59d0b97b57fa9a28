//! `pingora-example LISTEN-PORT ORIGIN-PORT THREADS`: the smallest HTTP proxy on the Pingora library.

use async_trait::async_trait;
use pingora::prelude::*;
use pingora::server::configuration::ServerConf;

struct Proxy {
    origin: u16,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(("127.0.0.1", self.origin), false, String::new())))
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [listen, origin, threads] = match args.iter().map(|arg| arg.parse::<u16>()).collect::<Vec<_>>()[..] {
        [Ok(listen), Ok(origin), Ok(threads)] => [listen, origin, threads],
        _ => {
            println!("pingora-example {}", env!("CARGO_PKG_VERSION"));
            return;
        }
    };
    let configuration = ServerConf {
        threads: usize::from(threads),
        upstream_keepalive_pool_size: 1024,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, configuration);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Proxy { origin });
    service.add_tcp(&format!("127.0.0.1:{listen}"));
    server.add_service(service);
    server.run_forever();
}
